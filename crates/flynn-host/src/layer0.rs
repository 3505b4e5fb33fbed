//! Layer 0: the containers of the host manifest, kept there.

use std::{collections::HashMap, error::Error, path::Path, time::Duration};

use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountType, RestartPolicy, RestartPolicyNameEnum,
};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    backend::engine::{Container, Engine, EngineError},
    disk,
    domain::{
        manifest::{Folder, Service},
        slug_tar::APP_USER,
        spec::{engine_log, files},
    },
    etcd,
    identity::Folders,
    jobs::container::most_files,
};

/// Label: what the container was made from, so that another manifest or image makes another.
const LABEL_DIGEST: &str = "flynn.layer0";
/// How often the containers are looked at.
const LOOK: Duration = Duration::from_secs(3);
/// How long a service may take until it is ready: etcd may have to read a long log.
const READY: Duration = Duration::from_secs(60);
/// Pause between two questions whether it is.
const PAUSE: Duration = Duration::from_millis(50);
/// Open files of a daemon.
const FILES: u32 = 65_536;

/// A service of layer 0 does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Layer0Error {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A folder.
    #[error("the folder {folder} of {service} could not be made or removed")]
    Folder {
        /// The service.
        service: String,
        /// The folder.
        folder: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It does not answer.
    #[error("{service} was not ready within {READY:?}; `docker logs {container}` says why")]
    NotReady {
        /// The service.
        service: String,
        /// Its container.
        container: String,
    },
}

/// The services of the manifest on this host.
#[derive(Debug, Clone)]
pub(crate) struct Layer0 {
    pub(crate) engine: Engine,
    pub(crate) folders: Folders,
    pub(crate) prefix: String,
    pub(crate) http: reqwest::Client,
}

impl Layer0 {
    fn container(&self, service: &Service) -> String {
        format!("{}-{}", self.prefix, service.id)
    }

    /// Starts a service, unless it runs as it should, and waits until it is ready.
    pub(crate) async fn start(&self, service: &Service) -> Result<(), Layer0Error> {
        self.ensure(service).await?;
        if service.ready.is_empty() {
            return Ok(());
        }
        let end = Instant::now() + READY;
        loop {
            let asked = self.http.get(&service.ready).timeout(Duration::from_secs(2)).send().await;
            if asked.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if Instant::now() >= end {
                let container = self.container(service);
                return Err(Layer0Error::NotReady { service: service.id.clone(), container });
            }
            sleep(PAUSE).await;
        }
    }

    /// Makes the service's container be there, be of this manifest and this image, and run.
    async fn ensure(&self, service: &Service) -> Result<(), Layer0Error> {
        let name = self.container(service);
        let image = self.engine.image(&service.image).await?;
        let digest = digest(service, &image.id);
        match self.engine.container(&name).await? {
            Some(found) if found.labels.get(LABEL_DIGEST) == Some(&digest) => {
                let Err(err) = self.ensure_running(service, &found).await else { return Ok(()) };
                // Made by an older daemon, perhaps, with what this engine does not grant.
                warn!(
                    error = &err as &dyn Error,
                    "{} cannot be started; making it anew", service.id
                );
                self.engine.remove(&found.id).await?;
            }
            Some(found) => {
                info!("making {} anew: its manifest or its image is another", service.id);
                self.engine.remove(&found.id).await?;
            }
            None => info!("starting {}", service.id),
        }
        self.make(service, &image.id, digest).await
    }

    async fn ensure_running(
        &self,
        service: &Service,
        found: &Container,
    ) -> Result<(), Layer0Error> {
        if !found.running {
            warn!("{} had been stopped; starting it again", service.id);
            self.engine.start(&found.id).await?;
        }
        Ok(())
    }

    async fn make(
        &self,
        service: &Service,
        image: &str,
        digest: String,
    ) -> Result<(), Layer0Error> {
        for Folder { folder, .. } in &service.volumes {
            disk::user_dir(&self.folders.root().join(folder), APP_USER).map_err(|source| {
                let (service, folder) = (service.id.clone(), folder.clone());
                Layer0Error::Folder { service, folder, source }
            })?;
        }
        let spec = self.spec(service, image, digest);
        let id = self.engine.create(&self.container(service), spec).await?;
        Ok(self.engine.start(&id).await?)
    }

    fn spec(&self, service: &Service, image: &str, digest: String) -> ContainerCreateBody {
        let mounts = service.volumes.iter().map(|Folder { folder, path }| Mount {
            typ: Some(MountType::BIND),
            source: Some(self.folders.root().join(folder).display().to_string()),
            target: Some(path.clone()),
            ..Mount::default()
        });
        let env = service.env.iter().map(|(name, value)| format!("{name}={value}"));
        ContainerCreateBody {
            image: Some(image.into()),
            entrypoint: Some(service.entrypoint.clone()).filter(|e| !e.is_empty()),
            cmd: Some(service.args.clone()).filter(|args| !args.is_empty()),
            env: Some(env.collect()),
            labels: Some(HashMap::from([(LABEL_DIGEST.to_owned(), digest)])),
            host_config: Some(HostConfig {
                network_mode: Some("host".into()),
                restart_policy: Some(RestartPolicy {
                    name: Some(RestartPolicyNameEnum::ALWAYS),
                    maximum_retry_count: None,
                }),
                mounts: Some(mounts.collect()),
                cap_drop: Some(vec!["ALL".into()]),
                cap_add: Some(service.linux_capabilities.clone()),
                ulimits: Some(vec![files(FILES.min(most_files()))]),
                log_config: Some(engine_log()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }

    /// Makes the service's container run, of whatever image it is: a newer one counts when this daemon starts.
    async fn revive(&self, service: &Service) -> Result<(), Layer0Error> {
        match self.engine.container(&self.container(service)).await? {
            Some(found) if found.running => Ok(()),
            _ => self.ensure(service).await,
        }
    }

    /// Makes a service not run here, and what it kept be gone.
    pub(crate) async fn without(&self, id: &str, data: &Path) -> Result<(), Layer0Error> {
        let name = format!("{}-{id}", self.prefix);
        if let Some(found) = self.engine.container(&name).await? {
            info!("{id} does not run here any more");
            self.engine.remove(&found.id).await?;
        }
        etcd::forget(data).map_err(|source| {
            let folder = data.display().to_string();
            Layer0Error::Folder { service: id.into(), folder, source }
        })
    }

    /// Keeps the services running: the engine restarts what dies, this what was stopped or removed.
    pub(crate) async fn keep(&self, services: &[Service], stop: CancellationToken) {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            for service in services {
                if let Err(err) = self.revive(service).await {
                    warn!(error = &err as &dyn Error, "{} is not kept", service.id);
                }
            }
        }
    }
}

fn digest(service: &Service, image: &str) -> String {
    let described = serde_json::to_vec(service).expect("a service serialises");
    hex::encode(Sha256::new().chain_update(described).chain_update(image).finalize())
}
