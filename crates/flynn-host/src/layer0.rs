//! Layer 0: the containers of the host manifest, kept there.

use std::{collections::HashMap, error::Error, net::Ipv4Addr, path::Path, time::Duration};

use api::key;
use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountType, RestartPolicy, RestartPolicyNameEnum,
};
use daemon::Lifetime;
use sha2::{Digest, Sha256};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    backend::engine::{Container, Engine, EngineError},
    config::Config,
    disk,
    domain::{
        manifest::{self, Folder, Service},
        net::Cidr,
        spec::{engine_log, files},
        users::LAYER0,
    },
    etcd::{self, Role},
    identity::Folders,
    jobs::container::most_files,
};

/// The service of the manifest that everything else needs.
pub(crate) const ETCD: &str = "etcd";
/// Label: what the container was made from, so that another manifest or image makes another.
pub(crate) const LABEL_DIGEST: &str = "flynn.layer0";
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

    /// Starts what everything else needs. A host that has its subnet needs nothing of it to go on with what runs there: it
    /// may be the only one of several that is up.
    pub(crate) async fn start_first(
        &self,
        manifest: &Manifest,
        role: &Role,
        subnet: Option<Cidr>,
    ) -> anyhow::Result<()> {
        for service in manifest.services(role)?.iter().filter(|service| service.id == ETCD) {
            match subnet {
                Some(_) => self.ensure(service).await?,
                None => self.start_or_go_on(service).await?,
            }
        }
        Ok(())
    }

    /// Starts what else layer 0 has, and keeps all of it.
    pub(crate) async fn start_rest(
        self,
        manifest: Manifest,
        role: Role,
        roles: Option<watch::Receiver<Role>>,
        lifetime: &Lifetime,
    ) -> anyhow::Result<()> {
        for service in manifest.services(&role)?.iter().filter(|service| service.id != ETCD) {
            self.start_or_go_on(service).await?;
        }
        let roles = roles.unwrap_or_else(|| watch::channel(role).1);
        lifetime.spawn("layer 0", move |stop| self.keep_all(manifest, roles, stop));
        Ok(())
    }

    /// A service that is not ready must not keep the jobs down that are there already.
    async fn start_or_go_on(&self, service: &Service) -> Result<(), Layer0Error> {
        match self.start(service).await {
            Err(err @ Layer0Error::NotReady { .. }) => {
                warn!(error = &err as &dyn Error, "going on without {}", service.id);
                Ok(())
            }
            done => done,
        }
    }

    /// Keeps all of it, of this host's part in etcd.
    async fn keep_all(
        self,
        manifest: Manifest,
        mut roles: watch::Receiver<Role>,
        stop: CancellationToken,
    ) {
        loop {
            let role = roles.borrow_and_update().clone();
            match manifest.services(&role) {
                Ok(services) => {
                    // While something of its member is left the host cannot be given another one.
                    let left = role == Role::Client;
                    tokio::select! {
                        changed = roles.changed() => if changed.is_err() {
                            return self.keep(&services, left, stop).await
                        },
                        () = self.keep(&services, left, stop.child_token()) => return,
                    }
                }
                Err(err) => {
                    warn!(error = %err, "the host manifest cannot be used");
                    return;
                }
            }
        }
    }

    /// Starts a service, unless it runs as it should, and waits until it is ready.
    async fn start(&self, service: &Service) -> Result<(), Layer0Error> {
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
            disk::user_dir(&self.folders.root().join(folder), LAYER0).map_err(|source| {
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
            user: Some(format!("{LAYER0}:{LAYER0}")),
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
    async fn without(&self, id: &str, data: &Path) -> Result<(), Layer0Error> {
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

    /// Keeps the services running: the engine restarts what dies, this what was stopped or removed. `left`: something of
    /// etcd may be left, although this host is no member now.
    async fn keep(&self, services: &[Service], mut left: bool, stop: CancellationToken) {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            if left {
                match self.without(ETCD, &self.folders.etcd_data()).await {
                    Ok(()) => left = false,
                    Err(err) => warn!(
                        error = &err as &dyn Error,
                        "what is left of etcd could not be removed; trying again"
                    ),
                }
            }
            for service in services {
                if let Err(err) = self.revive(service).await {
                    warn!(error = &err as &dyn Error, "{} is not kept", service.id);
                }
            }
        }
    }
}

/// What layer 0 consists of on this host.
pub(crate) struct Manifest {
    pub(crate) config: Config,
    pub(crate) id: String,
    pub(crate) cluster_key: String,
    pub(crate) addr: Ipv4Addr,
    pub(crate) gateway: Ipv4Addr,
}

impl Manifest {
    pub(crate) fn services(&self, role: &Role) -> anyhow::Result<Vec<Service>> {
        let config = &self.config;
        if config.no_layer0 {
            return Ok(Vec::new());
        }
        let text = config.manifest_text()?;
        let ports = (config.etcd_port, config.etcd_member_port, config.etcd_peer_port);
        let mut values = etcd::values(role, &self.id, self.addr, ports);
        values.extend([
            ("host_id", self.id.clone()),
            ("gateway", self.gateway.to_string()),
            ("data_dir", config.dir.data_dir.display().to_string()),
            ("etcd_client_port", config.etcd_port.to_string()),
            ("discoverd_port", config.discoverd_port.to_string()),
            ("relay_port", config.relay_port.to_string()),
            ("dns_port", config.dns_port.to_string()),
            ("discoverd_key", key::derive(&self.cluster_key, "discoverd", key::VERSION)),
        ]);
        Ok(manifest::render(&text, &values)?)
    }
}

/// Asks whether a service is ready.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(2))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        // What a new connection sees counts.
        .pool_max_idle_per_host(0)
        .build()
        .expect("the options of the HTTP client are valid")
}

fn digest(service: &Service, image: &str) -> String {
    let described = serde_json::to_vec(service).expect("a service serialises");
    let user = LAYER0.to_string();
    let digest = Sha256::new().chain_update(described).chain_update(image).chain_update(user);
    hex::encode(digest.finalize())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::{Router, http::StatusCode};
    use tokio::net::UnixListener;

    use super::*;

    /// An engine that is out of order at first, and has no containers.
    async fn engine(listener: UnixListener) {
        let asked = AtomicU32::new(0);
        let answer = async move || match asked.fetch_add(1, Ordering::SeqCst) {
            0 => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::NOT_FOUND,
        };
        let answer = std::sync::Arc::new(answer);
        let router = Router::new().fallback(async move || answer().await);
        axum::serve(listener, router).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_left_of_etcd_is_removed_also_if_that_fails_at_first() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let layer0 = Layer0 {
            engine: Engine::connect(&socket).unwrap(),
            folders: Folders::new(dir.path()),
            prefix: "x".into(),
            http: client(),
        };
        let data = layer0.folders.etcd_data();
        std::fs::create_dir(&data).unwrap();
        let stop = CancellationToken::new();
        let gone =
            testkit::wait_until_for(Duration::from_secs(60), "the data is gone", async || {
                if data.exists() { Err("it is there") } else { Ok(()) }
            });
        tokio::select! {
            () = engine(listener) => unreachable!("it serves for ever"),
            () = layer0.keep(&[], true, stop) => unreachable!("nobody stops it"),
            () = gone => {}
        }
    }
}
