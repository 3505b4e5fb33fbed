//! From a job to a container that can be started.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::Ipv4Addr,
    path::PathBuf,
};

use api::{
    host::{ActiveJob, Job, Slug},
    id::JobId,
};
use bollard::{body_full, query_parameters::UploadToContainerOptionsBuilder};

use super::{owners, registry::own_address};
use crate::{
    backend::{
        engine::{EngineError, Image, of},
        fetched::FetchError,
        slug::{self, SlugError},
    },
    disk,
    domain::{
        single_tar,
        spec::{self, Place},
        users::{self, Asked},
    },
    host::Host,
};

/// The job cannot be started, and why: a sentence for its owner.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Its slug.
    #[error(transparent)]
    Slug(#[from] SlugError),
    /// Its image, which is not here.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A volume.
    #[error("the folder of volume {volume} could not be made")]
    Volume {
        /// Its name.
        volume: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A folder its image wants.
    #[error("the folders that its image keeps outside of its layers could not be made")]
    Scratch(#[source] io::Error),
    /// Too many of those.
    #[error("its image has {0} volumes, and may have {SCRATCH_MAX}")]
    Volumes(usize),
    /// A name of its image's stands for root.
    #[error(
        "its image runs as root, or as one of the platform's own users, under another name, which no job does: have the \
         image name a user by a number from 1 to 65535"
    )]
    Root,
    /// It was told to stop first.
    #[error("it was told to stop before it was started")]
    Stopped,
}

/// Most folders an image may want outside of its layers.
const SCRATCH_MAX: usize = 64;

/// Below it: a folder a job, of what its image wants outside of its layers.
pub(crate) fn scratch_root(host: &Host) -> PathBuf {
    host.folders.root().join("scratch")
}

/// Where the folders are that a job's image wants outside of its layers.
pub(super) fn scratch_dir(host: &Host, id: JobId) -> PathBuf {
    scratch_root(host).join(id.to_string())
}

/// Makes those folders, empty: what an earlier process of the job left is gone, as its layer is.
async fn make_scratch(
    host: &Host,
    id: JobId,
    folders: &[(String, PathBuf)],
) -> Result<(), StartError> {
    if folders.len() > SCRATCH_MAX {
        return Err(StartError::Volumes(folders.len()));
    }
    remove_scratch(host, id).await.map_err(StartError::Scratch)?;
    let made = folders.iter().try_for_each(|(_, folder)| disk::private_dir(folder));
    made.map_err(StartError::Scratch)
}

/// Removes those folders.
pub(super) async fn remove_scratch(host: &Host, id: JobId) -> io::Result<()> {
    let folder = scratch_dir(host, id);
    let removed = tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(folder) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    });
    removed.await.map_err(io::Error::other).flatten()
}

/// What a job's container is called.
pub(crate) fn name(host: &Host, id: JobId) -> String {
    format!("{}-job-{id}", host.settings.prefix)
}

/// The image a job runs: its own, or the one its slug becomes.
pub(crate) async fn image(host: &Host, active: &ActiveJob) -> Result<Image, StartError> {
    let job = &active.job;
    let image = host.fetched.image(&job.image, &host.peers).await?;
    match &job.slug {
        None => Ok(image),
        Some(slug) => slug_image(host, job, &image.id, slug).await,
    }
}

/// The image of a slug. While shelf cannot be asked, another host may have it; from shelf it is less to fetch.
async fn slug_image(
    host: &Host,
    job: &Job,
    runner: &str,
    slug: &Slug,
) -> Result<Image, StartError> {
    let user = users::of_app(job);
    match host.slugs.image(runner, slug, user).await {
        Err(err @ SlugError::Fetch { .. }) => {
            host.peers.fetch(&host.slugs.name(&slug::tag(slug, user))).await.map_err(|_| err)?;
            // One that was made on another runner does not count.
            Ok(host.slugs.image(runner, slug, user).await?)
        }
        made => Ok(made?),
    }
}

/// Makes the container of a job.
pub(crate) async fn create(
    host: &Host,
    active: &ActiveJob,
    image: &Image,
) -> Result<String, StartError> {
    let job = &active.job;
    refuse_who_is_above(host, job, image).await?;
    let of_volumes = owners::make_volumes(host, job, &image.user).await?;
    let scratch = spec::scratch(job, &image.volumes, &scratch_dir(host, job.id));
    make_scratch(host, job.id, &scratch).await?;
    let settings = &host.settings;
    let network = own_address(active).map(|address: Ipv4Addr| (settings.network.as_str(), address));
    let entry = host.registry.entry(job.id);
    let place = Place {
        host_id: &settings.id,
        network,
        gateway: settings.gateway,
        external_ip: &settings.external_ip,
        discoverd_port: settings.discoverd_port,
        volumes: &host.folders.volumes(),
        image: &image.id,
        most_files: most_files(),
        image_user: &image.user,
        scratch: &scratch,
        env: &settings.env,
        entry: entry.and_then(|entry| serde_json::to_string(&entry).ok()).unwrap_or_default(),
    };
    let name = name(host, job.id);
    let mut spec = spec::container(job, &place);
    if let Some(user) = of_volumes {
        spec.user = Some(format!("{user}:{user}"));
    }
    let container = match host.engine.create(&name, spec.clone()).await {
        // One of an earlier process of this job, which did not get as far as being removed.
        Err(err) if err.is_conflict() => {
            host.engine.remove(&name).await?;
            host.engine.create(&name, spec).await?
        }
        created => created?,
    };
    if spec::lacks_tmp(job) {
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        let body = body_full(single_tar::tmp_folder("tmp/").into());
        let made = host.engine.docker().upload_to_container(&container, Some(options), body).await;
        made.map_err(of(|| "make a folder for temporary files".into()))?;
    }
    Ok(container)
}

/// Refuses an image whose user is one by whom no job runs, before anything of it does.
async fn refuse_who_is_above(host: &Host, job: &Job, image: &Image) -> Result<(), StartError> {
    let is_above = match users::asked(job, &image.user) {
        Asked::Good => false,
        Asked::Above => true,
        Asked::Name(name) => host.named_users.may_be_above(image, name).await?,
    };
    if is_above { Err(StartError::Root) } else { Ok(()) }
}

/// Whether a process that was just started is root, or layer 0. One that is over already is not asked.
pub(super) fn is_above_itself(job: &Job, pid: i64) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    pid > 0 && status.is_ok_and(|status| users::is_above_itself(job, &status))
}

/// The users that may ask etcd on this host: this daemon's, layer 0's, the router's, and that of a router which was started
/// when it had another.
pub(crate) async fn callers(host: &Host) -> BTreeSet<u32> {
    let mut users = BTreeSet::from([0, users::LAYER0, users::ROUTER]);
    for active in host.registry.active() {
        if users::of_job(&active.job, "") != Some(users::ROUTER) {
            continue;
        }
        if let Ok(Some(found)) = host.engine.container(&active.container_id).await
            && let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", found.pid))
        {
            users.extend(users::of_process(&status));
        }
    }
    users
}

/// This process's own limit, which it has from the same engine.
pub(crate) fn most_files() -> u32 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(u32::MAX)
}

/// Environment for every job so that its TLS libraries trust a bundle.
pub(crate) fn extra_ca(bundle: &str) -> HashMap<String, String> {
    let names = [
        "SSL_CERT_FILE",
        "NODE_EXTRA_CA_CERTS",
        "PIP_CERT",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
    ];
    names.into_iter().map(|name| (name.to_owned(), bundle.to_owned())).collect()
}
