//! Garbage collection: containers of ended jobs that stayed behind, images of apps, and volumes.
//!
//! A thing is looked at twice before it goes, and asked about once more at the moment it goes, with the door shut
//! through which a job could come to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use daemon::reconcile::Reconcile;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    backend::{engine::EngineError, slug},
    disk::{self, Durable},
    domain::{
        garbage::{Idle, Kept, age, surplus},
        spec::{LABEL_HOST, LABEL_JOB},
        users,
    },
    host::Host,
    jobs::container::scratch_root,
    volumes::folders::{blocking, holders, let_go, listed, set_aside},
};

/// What is kept although nobody uses it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Of the images of apps.
    pub(crate) images: Kept,
    /// Of the volumes.
    pub(crate) volumes: Kept,
}

/// Of containers nothing is kept: a job's output is in its log.
const CONTAINERS: Kept = Kept { most: 0, longest: Duration::ZERO, when_short: false };

/// How long things have not been used, as it is kept on disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Unused {
    #[serde(default)]
    images: Idle,
    #[serde(default)]
    volumes: Idle,
}

/// Looks again and again.
pub(crate) struct Garbage {
    host: Arc<Host>,
    rules: Rules,
    path: PathBuf,
    unused: Unused,
    containers: Idle,
    scratch: Idle,
    claims: Idle,
    looked: Instant,
}

impl Garbage {
    /// Goes on with the times that are on disk.
    pub(crate) fn open(host: Arc<Host>, rules: Rules) -> Self {
        let path = host.folders.unused();
        let unused = disk::read_json(&path).unwrap_or_else(|err| {
            warn!(error = %err, "how long things were unused is not known; counting anew");
            None
        });
        let unused = unused.unwrap_or_default();
        Self {
            host,
            rules,
            path,
            unused,
            containers: Idle::new(),
            scratch: Idle::new(),
            claims: Idle::new(),
            looked: Instant::now(),
        }
    }

    async fn containers(&mut self, since: Duration) -> Result<(), EngineError> {
        let host = &self.host;
        let mut present: BTreeMap<String, bool> = BTreeMap::new();
        let label = format!("{LABEL_HOST}={}", host.settings.id);
        for container in host.engine.listed(&label).await? {
            let job = container.labels.get(LABEL_JOB).and_then(|id| id.parse().ok());
            let active = job.and_then(|job| host.registry.job(job));
            let used = active.is_some_and(|active| active.status.is_active());
            present.insert(container.id, used);
        }
        for (id, tag) in host.slugs.makings().await? {
            present.insert(id, host.slugs.is_under_way(&tag));
        }
        let used = present.iter().filter(|(_, used)| **used).map(|(id, _)| id.clone()).collect();
        self.containers = age(&self.containers, &present.into_keys().collect(), &used, since);
        for id in surplus(&self.containers, CONTAINERS, true) {
            info!(container = %id, "removing a container nobody needs any more");
            self.host.engine.remove(id).await?;
        }
        Ok(())
    }

    /// What the image of an ended job kept outside of its layers: its life removes it, unless this daemon ended first.
    async fn scratch(&mut self, since: Duration) -> io::Result<()> {
        let folder = scratch_root(&self.host);
        let listed = folder.clone();
        let present = blocking(move || names(&listed)).await?;
        let job = |name: &str| self.host.registry.job(name.parse().ok()?);
        let is_used = |name: &String| job(name).is_some_and(|job| job.status.is_active());
        let used = present.iter().filter(|name| is_used(name)).cloned().collect();
        self.scratch = age(&self.scratch, &present, &used, since);
        for name in surplus(&self.scratch, CONTAINERS, true) {
            let path = folder.join(name);
            blocking(move || fs::remove_dir_all(path)).await?;
        }
        Ok(())
    }

    async fn images(&mut self, since: Duration) -> Result<(), EngineError> {
        let host = &self.host;
        let mut present = host.slugs.images().await?;
        let fetched = host.fetched.images().await?;
        present.extend(fetched.iter().cloned());
        let mut used: BTreeSet<_> =
            used_slugs(host).iter().map(|tag| host.slugs.name(tag)).collect();
        used.extend(used_fetched(host));
        self.unused.images = age(&self.unused.images, &present, &used, since);
        for name in surplus(&self.unused.images, self.rules.images, host.is_short()) {
            let removed = if fetched.contains(name) {
                host.fetched.remove(name, || used_fetched(host)).await
            } else {
                host.slugs.remove(name, || used_slugs(host)).await
            };
            match removed {
                Ok(()) => info!(image = %name, "removed an image nobody needs any more"),
                // A container has it that is of no job.
                Err(err) if err.is_conflict() => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    async fn volumes(&mut self, since: Duration) -> io::Result<()> {
        let folder = self.host.folders.volumes();
        let (present, going) = blocking(move || listed(&folder)).await?;
        blocking(move || going.iter().try_for_each(fs::remove_dir_all)).await?;
        self.unused.volumes = age(&self.unused.volumes, &present, &used_volumes(&self.host), since);
        let mut gone = Vec::new();
        for name in surplus(&self.unused.volumes, self.rules.volumes, self.host.is_short()) {
            // No job is accepted meanwhile, so none comes to have it.
            let nobody = self.host.accepting.lock().await;
            if used_volumes(&self.host).contains(name) {
                continue;
            }
            info!(volume = %name, "removing a volume nobody has used for long");
            let aside = set_aside(&self.host, name)?;
            drop(nobody);
            gone.push(let_go(&self.host, aside).await);
        }
        blocking(move || gone.iter().try_for_each(fs::remove_dir_all)).await
    }

    /// What this host claimed and does not have: of volumes that went while etcd was away, or whose job never began.
    async fn claims(&mut self, since: Duration) -> Result<(), keyspace::Error> {
        let host = &self.host;
        let folder = host.folders.volumes();
        // Of a disk that is missing nothing is known.
        if !folder.exists() {
            return Ok(());
        }
        let present = host.volumes.own().await?;
        let is_used = |name: &str| {
            folder.join(name).exists() || holders(&host.registry.active(), name).next().is_some()
        };
        let used = present.iter().filter(|name| is_used(name)).cloned().collect();
        self.claims = age(&self.claims, &present, &used, since);
        for name in surplus(&self.claims, CONTAINERS, true) {
            let nobody = host.accepting.lock().await;
            let going = (!is_used(name)).then(|| host.volumes.give_up(name)).flatten();
            drop(nobody);
            if let Some(going) = going {
                info!(volume = %name, "giving up volume {name}, of which there is nothing here");
                host.volumes.release(going).await?;
            }
        }
        Ok(())
    }
}

impl Reconcile for Garbage {
    type Error = Infallible;

    async fn reconcile(&mut self) -> Result<(), Infallible> {
        let since = std::mem::replace(&mut self.looked, Instant::now()).elapsed();
        let said = |err: &(dyn Error + 'static)| {
            warn!(error = err, "something unused could not be removed")
        };
        // Each for itself: what cannot be removed of one keeps none of the others.
        self.containers(since).await.unwrap_or_else(|err| said(&err));
        self.scratch(since).await.unwrap_or_else(|err| said(&err));
        self.images(since).await.unwrap_or_else(|err| said(&err));
        self.volumes(since).await.unwrap_or_else(|err| said(&err));
        self.claims(since).await.unwrap_or_else(|err| said(&err));
        let (path, unused) = (self.path.clone(), self.unused.clone());
        let kept = blocking(move || disk::write_json(&path, &unused, Durable::Renamed)).await;
        kept.unwrap_or_else(|err| said(&err));
        Ok(())
    }
}

/// Tags of the images of slugs of jobs that run or are about to.
fn used_slugs(host: &Host) -> BTreeSet<String> {
    let active = host.registry.active().into_iter().map(|active| active.job);
    active.filter_map(|job| Some(slug::tag(job.slug.as_ref()?, users::of_app(&job)))).collect()
}

/// Names of the images that were fetched for jobs that run or are about to.
fn used_fetched(host: &Host) -> BTreeSet<String> {
    let active = host.registry.active().into_iter();
    active.map(|active| host.fetched.name(&active.job.image)).collect()
}

/// Names of the volumes of every job this host remembers.
fn used_volumes(host: &Host) -> BTreeSet<String> {
    let jobs = host.registry.all().into_values();
    jobs.flat_map(|active| active.job.config.volumes).map(|volume| volume.name).collect()
}

/// Names in a folder; none if there is no such folder.
fn names(folder: &Path) -> io::Result<BTreeSet<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>(),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(err) => Err(err),
    }
}
