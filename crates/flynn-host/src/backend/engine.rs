//! The engine, in words of jobs.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    time::Duration,
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error as DockerError,
    models::{ContainerCreateBody, EventMessage},
    query_parameters::{
        CreateContainerOptionsBuilder, EventsOptionsBuilder, ImportImageOptionsBuilder,
        InspectContainerOptions, InspectContainerOptionsBuilder, KillContainerOptionsBuilder,
        ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveContainerOptionsBuilder,
        RemoveImageOptionsBuilder, ResizeContainerTTYOptionsBuilder, StartContainerOptions,
        TagImageOptionsBuilder,
    },
};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use jiff::Timestamp;

use super::raw::{self, Attached, RawError};

/// Longest time until the engine answers a plain request. Ten starts at once take some seconds each.
const ANSWER: Duration = Duration::from_secs(60);
/// The same for what moves much data.
const LONG_ANSWER: Duration = Duration::from_secs(600);
/// Most of the engine's log read after this daemon was away.
const LOG_LIMIT: usize = 32 << 20;

/// The engine, over its socket.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    docker: Docker,
    slow: Docker,
    socket: PathBuf,
}

/// The engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// There is no such image here.
    #[error(
        "the image {0} is not on this host nor on another, and its name says no registry to fetch it from; \
         push it with `flynn docker-push`, or load it here"
    )]
    NoImage(String),
    /// Anything else.
    #[error("the container engine could not {doing}: {}", said(source))]
    Docker {
        /// What it was asked, as an infinitive.
        doing: String,
        /// What it said.
        #[source]
        source: DockerError,
    },
    /// A request bollard cannot make failed.
    #[error("the container engine could not {doing}")]
    Raw {
        /// What it was asked, as an infinitive.
        doing: String,
        /// Why.
        #[source]
        source: RawError,
    },
}

/// The engine's own words where there are any: they name the cause, and their reader is whoever ordered the job.
fn said(err: &DockerError) -> &str {
    match err {
        DockerError::DockerResponseServerError { message, .. } => message,
        _ => "it cannot be talked to",
    }
}

impl EngineError {
    fn status(&self) -> Option<u16> {
        match self {
            Self::Docker {
                source: DockerError::DockerResponseServerError { status_code, .. },
                ..
            } => Some(*status_code),
            _ => None,
        }
    }

    /// There is no such thing.
    pub(crate) fn is_missing(&self) -> bool {
        self.status() == Some(404)
    }

    /// There is one of that name, or it is in the wrong state.
    pub(crate) fn is_conflict(&self) -> bool {
        self.status() == Some(409)
    }
}

/// An image.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// `sha256:…`.
    pub(crate) id: String,
    /// The user it runs as.
    pub(crate) user: String,
    /// Its labels.
    pub(crate) labels: HashMap<String, String>,
    /// Where it wants folders that are no part of its layers.
    pub(crate) volumes: Vec<String>,
    /// Whether it has an id only.
    pub(crate) is_nameless: bool,
}

/// A container, as far as a listing tells.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// The engine's id.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: HashMap<String, String>,
}

/// A container as it is now.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    /// The engine's id.
    pub(crate) id: String,
    /// Its process runs.
    pub(crate) running: bool,
    /// It was started at least once.
    pub(crate) was_started: bool,
    /// When, by the engine.
    pub(crate) started_at: Option<Timestamp>,
    /// Status of its last end.
    pub(crate) exit_status: i32,
    /// The kernel killed it for memory.
    pub(crate) out_of_memory: bool,
    /// Id of its process on the host.
    pub(crate) pid: i64,
    /// Its labels.
    pub(crate) labels: HashMap<String, String>,
}

impl Engine {
    /// The engine behind a socket.
    pub(crate) fn connect(socket: &Path) -> Result<Self, EngineError> {
        let path = socket.display().to_string();
        let docker = Docker::connect_with_unix(&path, ANSWER.as_secs(), API_DEFAULT_VERSION)
            .map_err(of(|| format!("be reached at {path}")))?;
        let slow = docker.clone().with_timeout(LONG_ANSWER);
        Ok(Self { docker, slow, socket: socket.into() })
    }

    /// For what moves much data.
    pub(crate) fn slow(&self) -> &Docker {
        &self.slow
    }

    /// For the rest that is not here.
    pub(crate) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// An image by name or id.
    pub(crate) async fn image(&self, name: &str) -> Result<Image, EngineError> {
        let found = self.docker.inspect_image(name).await;
        let found = found.map_err(of(|| format!("look up the image {name}"))).map_err(|err| {
            if err.is_missing() { EngineError::NoImage(name.into()) } else { err }
        })?;
        let config = found.config.unwrap_or_default();
        Ok(Image {
            id: found.id.unwrap_or_else(|| name.into()),
            user: config.user.unwrap_or_default(),
            labels: config.labels.unwrap_or_default(),
            volumes: config.volumes.unwrap_or_default(),
            is_nameless: found.repo_tags.is_none_or(|tags| tags.is_empty()),
        })
    }

    /// Makes a container; its id.
    pub(crate) async fn create(
        &self,
        name: &str,
        spec: ContainerCreateBody,
    ) -> Result<String, EngineError> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let created = self.docker.create_container(Some(options), spec).await;
        created.map(|created| created.id).map_err(of(|| format!("create the container {name}")))
    }

    /// Starts a container.
    pub(crate) async fn start(&self, container: &str) -> Result<(), EngineError> {
        let started = self.docker.start_container(container, None::<StartContainerOptions>).await;
        started.map_err(of(|| "start the process".into()))
    }

    /// Sends a signal by number. That nothing runs is no error: there is nothing to signal.
    pub(crate) async fn kill(&self, container: &str, signal: u32) -> Result<(), EngineError> {
        let options = KillContainerOptionsBuilder::new().signal(&signal.to_string()).build();
        let killed = self.docker.kill_container(container, Some(options)).await;
        let killed = killed.map_err(of(|| format!("send signal {signal}")));
        killed.or_else(|err| if err.is_missing() || err.is_conflict() { Ok(()) } else { Err(err) })
    }

    /// Removes a container with its anonymous volumes, running or not; that there is none is success.
    pub(crate) async fn remove(&self, container: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removed = self.docker.remove_container(container, Some(options)).await;
        let removed = removed.map_err(of(|| format!("remove the container {container}")));
        // 409: its removal is under way.
        removed.or_else(|err| if err.is_missing() || err.is_conflict() { Ok(()) } else { Err(err) })
    }

    /// A container by name or id; `None` if there is none.
    pub(crate) async fn container(&self, name: &str) -> Result<Option<Container>, EngineError> {
        let found = self.docker.inspect_container(name, None::<InspectContainerOptions>).await;
        let found = match found.map_err(of(|| format!("look up the container {name}"))) {
            Ok(found) => found,
            Err(err) if err.is_missing() => return Ok(None),
            Err(err) => return Err(err),
        };
        let state = found.state.unwrap_or_default();
        let status = state.exit_code.unwrap_or_default();
        Ok(Some(Container {
            id: found.id.unwrap_or_else(|| name.into()),
            running: state.running.unwrap_or_default() || state.restarting.unwrap_or_default(),
            was_started: state.started_at.as_ref().is_some_and(|at| !at.starts_with("0001-")),
            started_at: state.started_at.and_then(|at| at.parse().ok()),
            exit_status: i32::try_from(status).unwrap_or(i32::MAX),
            out_of_memory: state.oom_killed.unwrap_or_default(),
            pid: state.pid.unwrap_or_default(),
            labels: found.config.and_then(|config| config.labels).unwrap_or_default(),
        }))
    }

    /// Bytes a container has written outside its volumes; `None` if there is no such container. The engine walks all it
    /// wrote.
    pub(crate) async fn layer_size(&self, container: &str) -> Result<Option<u64>, EngineError> {
        let options = InspectContainerOptionsBuilder::new().size(true).build();
        let found = self.docker.inspect_container(container, Some(options)).await;
        match found.map_err(of(|| format!("measure the container {container}"))) {
            // It says -1 when it could not.
            Ok(found) => Ok(found.size_rw.and_then(|size| u64::try_from(size).ok())),
            Err(err) if err.is_missing() => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Ids of all containers with a label, running or not.
    pub(crate) async fn containers(&self, label: &str) -> Result<Vec<String>, EngineError> {
        Ok(self.listed(label).await?.into_iter().map(|one| one.id).collect())
    }

    /// All containers with a label, running or not, as far as a listing tells.
    pub(crate) async fn listed(&self, label: &str) -> Result<Vec<Listed>, EngineError> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let all = self.docker.list_containers(Some(options)).await;
        let all = all.map_err(of(|| "list its containers".into()))?;
        let listed = all.into_iter().filter_map(|one| {
            let name = one.names.unwrap_or_default().into_iter().next().unwrap_or_default();
            Some(Listed {
                id: one.id?,
                name: name.trim_start_matches('/').into(),
                labels: one.labels.unwrap_or_default(),
            })
        });
        Ok(listed.collect())
    }

    /// Ids of all images with a label, with their names.
    pub(crate) async fn images(
        &self,
        label: &str,
    ) -> Result<Vec<(String, Vec<String>)>, EngineError> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let all = self.docker.list_images(Some(options)).await;
        let all = all.map_err(of(|| "list its images".into()))?;
        Ok(all.into_iter().map(|one| (one.id, one.repo_tags)).collect())
    }

    /// The names that images have in a repository.
    pub(crate) async fn image_names(
        &self,
        repository: &str,
    ) -> Result<BTreeSet<String>, EngineError> {
        let filters = HashMap::from([("reference", vec![repository])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let all = self.docker.list_images(Some(options)).await;
        let all = all.map_err(of(|| "list its images".into()))?;
        let own = format!("{repository}:");
        // The other names of such an image are listed too.
        let names = all.into_iter().flat_map(|one| one.repo_tags);
        Ok(names.filter(|name| name.starts_with(&own)).collect())
    }

    /// Gives an image another name, `<repository>:<tag>`.
    pub(crate) async fn tag_image(&self, id: &str, name: &str) -> Result<(), EngineError> {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let options = TagImageOptionsBuilder::new().repo(repository).tag(tag).build();
        let tagged = self.docker.tag_image(id, Some(options)).await;
        tagged.map_err(of(|| format!("name the image {id}")))
    }

    /// Removes an image; that there is none is success. One that a container has is a conflict.
    pub(crate) async fn remove_image(&self, name: &str) -> Result<(), EngineError> {
        let options = RemoveImageOptionsBuilder::new().force(false).build();
        let removed = self.docker.remove_image(name, Some(options), None).await;
        let removed = removed.map(drop).map_err(of(|| format!("remove the image {name}")));
        removed.or_else(|err| if err.is_missing() { Ok(()) } else { Err(err) })
    }

    /// An image with its name, packed.
    pub(crate) fn export(
        &self,
        name: &str,
    ) -> impl Stream<Item = Result<Bytes, DockerError>> + Send + use<> {
        self.slow.export_image(name)
    }

    /// Unpacks an image that was packed.
    pub(crate) async fn load<E: std::error::Error + Send + Sync + 'static>(
        &self,
        name: &str,
        packed: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> Result<(), EngineError> {
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let loaded = self.slow.import_image_stream(options, packed, None);
        loaded.try_for_each(|_| async { Ok(()) }).await.map_err(of(|| format!("load {name}")))
    }

    /// The action of an event of [`Engine::deaths`] that is no end: the kernel killed something for memory.
    pub(crate) const OUT_OF_MEMORY: &str = "oom";

    /// Ends of containers with a label and what was killed in them for memory, from an instant on
    /// (`seconds.nanoseconds`).
    pub(crate) fn deaths(
        &self,
        label: &str,
        since: &str,
    ) -> impl Stream<Item = Result<EventMessage, DockerError>> + Send + use<> {
        let filters = HashMap::from([
            ("type", vec!["container"]),
            ("event", vec!["die", Self::OUT_OF_MEMORY]),
            ("label", vec![label]),
        ]);
        self.docker.events(Some(EventsOptionsBuilder::new().since(since).filters(&filters).build()))
    }

    /// Says how large a container's terminal is.
    pub(crate) async fn resize(
        &self,
        container: &str,
        height: u16,
        width: u16,
    ) -> Result<(), EngineError> {
        let options =
            ResizeContainerTTYOptionsBuilder::new().h(height.into()).w(width.into()).build();
        let resized = self.docker.resize_container_tty(container, options).await;
        resized.map_err(of(|| "resize the terminal".into()))
    }

    /// A container's streams.
    pub(crate) async fn attach(
        &self,
        container: &str,
        stdin: bool,
    ) -> Result<Attached, EngineError> {
        let attached = raw::attach(&self.socket, container, stdin).await;
        attached
            .map_err(|source| EngineError::Raw { doing: "attach to the process".into(), source })
    }

    /// The engine's own log of a container since a second.
    pub(crate) async fn log(&self, container: &str, since: i64) -> Result<Bytes, EngineError> {
        let log = raw::log(&self.socket, container, since, LOG_LIMIT).await;
        log.map_err(|source| EngineError::Raw { doing: "read its log".into(), source })
    }
}

/// Says what was asked, with an error of bollard's.
pub(crate) fn of(doing: impl FnOnce() -> String) -> impl FnOnce(DockerError) -> EngineError {
    move |source| EngineError::Docker { doing: doing(), source }
}
