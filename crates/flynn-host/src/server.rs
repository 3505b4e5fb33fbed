//! Where the parts are made and joined, in the order a boot needs: etcd, subnet, job network, discoverd, jobs, API.

use std::{
    collections::BTreeMap,
    error::Error,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context;
use api::key;
use daemon::{
    Lifetime,
    reconcile::{Reconcile, keep},
};
use discoverd_client::Discoverd;
use keyspace::Keyspace;
use shelf_client::Shelf;
use strowger_client::Routers;
use tokio::{net::TcpListener, sync::Notify, time::sleep};
use tracing::{info, warn};

use crate::{
    backend::{
        engine::Engine,
        network::{JobNetwork, NetworkError},
        slug::Slugs,
    },
    cluster::Leadership,
    config::Config,
    disk,
    domain::{
        firewall::Ports,
        manifest::{self, Service},
        spec::LABEL_HOST,
    },
    host::{Host, Settings},
    identity::{self, Folders, HostFile},
    jobs::{
        addresses::Addresses, announce::Announcer, container::extra_ca, deaths::Deaths,
        journal::Journal, registry::Registry, restore::restore,
    },
    layer0::{Layer0, Layer0Error},
    logs,
    routes::{App, router},
    subnet::subnet,
    terms::Terms,
};

/// How often registrations are compared with discoverd.
const ANNOUNCE: Duration = Duration::from_secs(5);
/// How often the network and old logs are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(30);
/// How long the engine may take to come up beside us.
const ENGINE: Duration = Duration::from_secs(60);

/// A daemon that serves.
#[derive(Debug)]
pub struct Running {
    /// Its API on 127.0.0.1.
    pub local: SocketAddr,
    /// Its API on the bridge.
    pub gateway: SocketAddr,
    /// The host's id.
    pub id: String,
    network: JobNetwork,
    engine: Engine,
}

impl Running {
    /// Takes the job network away again: for tests, and for `script/down`.
    pub async fn remove_network(&self) -> anyhow::Result<()> {
        Ok(self.network.remove(&self.engine).await?)
    }
}

/// Brings the host up. Jobs that run go on running.
pub async fn start(config: Config, lifetime: &Lifetime) -> anyhow::Result<Running> {
    let folders = Folders::new(&config.dir.data_dir);
    let mut file = identity::read(&folders)?;
    let cluster_key = identity::cluster_key(&folders)?;
    let engine = Engine::connect(&config.docker_socket)?;
    until_engine_answers(&engine).await?;
    let http = http_client();
    let layer0 = Layer0 {
        engine: engine.clone(),
        folders: folders.clone(),
        prefix: config.prefix.clone(),
        http: http.clone(),
    };
    let first = services(&config, &file, &cluster_key, Ipv4Addr::UNSPECIFIED)?;
    // What everything else needs comes first in the manifest.
    for service in first.iter().take(1) {
        start_service(&layer0, service).await?;
    }
    let etcd_url = format!("http://127.0.0.1:{}", config.etcd_port);
    let etcd = Keyspace::connect(&[etcd_url]).await?;
    let subnet = subnet(&etcd, &folders, &mut file).await?;
    let network = job_network(&config, &file, subnet);
    network.ensure(&engine).await.context("the job network is not as it should be")?;
    let services = services(&config, &file, &cluster_key, subnet.gateway())?;
    for service in services.iter().skip(1) {
        start_service(&layer0, service).await?;
    }
    lifetime.spawn("layer 0", move |stop| async move { layer0.keep(&services, stop).await });

    let journal = Journal::open(&folders.jobs()).context("opening the journal")?;
    disk::private_dir(&folders.logs()).context("making the folder of logs")?;
    let parts = Parts { config: &config, folders, file, cluster_key, engine, http };
    let host = Arc::new(parts.host(subnet, journal.clone(), lifetime)?);
    keep_deaths(&host);
    restore(&host, &journal).await.context("taking up the jobs that are there")?;
    keep_up(&host, "announcements", ANNOUNCE, Announcements(host.clone()));
    keep_up(&host, "housekeeping", HOUSEKEEPING, House(host.clone(), network.clone()));
    serve(&config, host, &parts.cluster_key, network, lifetime).await
}

async fn until_engine_answers(engine: &Engine) -> anyhow::Result<()> {
    let end = Instant::now() + ENGINE;
    loop {
        match engine.docker().ping().await {
            Ok(_) => return Ok(()),
            Err(err) if Instant::now() >= end => {
                return Err(err)
                    .context("the container engine does not answer; is dockerd running?");
            }
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

fn http_client() -> reqwest::Client {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(2))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        // A check must see what a new connection sees.
        .pool_max_idle_per_host(0)
        .build()
        .expect("the options of the HTTP client are valid")
}

fn services(
    config: &Config,
    file: &HostFile,
    cluster_key: &str,
    gateway: Ipv4Addr,
) -> anyhow::Result<Vec<Service>> {
    if config.no_layer0 {
        return Ok(Vec::new());
    }
    let text = match &config.manifest {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("reading the host manifest {}", path.display()))?,
        None => manifest::BUILT_IN.into(),
    };
    let values = BTreeMap::from([
        ("host_id", file.id.clone()),
        ("gateway", gateway.to_string()),
        ("data_dir", config.dir.data_dir.display().to_string()),
        ("etcd_port", config.etcd_port.to_string()),
        ("etcd_peer_port", config.etcd_peer_port.to_string()),
        ("discoverd_port", config.discoverd_port.to_string()),
        ("dns_port", config.dns_port.to_string()),
        ("discoverd_key", key::derive(cluster_key, "discoverd", key::VERSION)),
    ]);
    Ok(manifest::render(&text, &values)?)
}

/// A service that is not ready must not keep the jobs down that are there already.
async fn start_service(layer0: &Layer0, service: &Service) -> Result<(), Layer0Error> {
    match layer0.start(service).await {
        Err(err @ Layer0Error::NotReady { .. }) => {
            warn!(error = &err as &dyn Error, "going on without {}", service.id);
            Ok(())
        }
        done => done,
    }
}

fn job_network(config: &Config, file: &HostFile, subnet: crate::domain::net::Cidr) -> JobNetwork {
    JobNetwork {
        name: config.network.clone(),
        bridge: config.bridge.clone(),
        mtu: config.mtu,
        range: file.range,
        subnet,
        chain: config.chain.clone(),
        ports: Ports {
            dns: config.dns_port,
            gateway: vec![config.discoverd_port, config.port, config.router_api_port],
            public: config.public_ports.clone(),
        },
    }
}

struct Parts<'a> {
    config: &'a Config,
    folders: Folders,
    file: HostFile,
    cluster_key: String,
    engine: Engine,
    http: reqwest::Client,
}

impl Parts<'_> {
    fn key(&self, service: &str) -> String {
        key::derive(&self.cluster_key, service, key::VERSION)
    }

    fn host(
        &self,
        subnet: crate::domain::net::Cidr,
        journal: Journal,
        lifetime: &Lifetime,
    ) -> anyhow::Result<Host> {
        let config = self.config;
        let boot_id = identity::boot_id().context("reading this boot's id")?;
        let url = format!("http://127.0.0.1:{}", config.discoverd_port);
        let discoverd = Discoverd::new(&url, Some(self.key("discoverd")));
        let routers = discoverd.watch("strowger-api").endpoint();
        let routers = Routers::new(routers, Some(self.key("strowger")));
        let shelf = match &config.shelf {
            Some(base) => base.as_str().into(),
            None => discoverd.watch("shelf").endpoint(),
        };
        let shelf = Shelf::new(shelf, self.key("shelf"));
        let gateway = subnet.gateway();
        let external_ip = config.external_ip.map_or(gateway.to_string(), |ip| ip.to_string());
        let env = config.extra_ca.as_deref().map(extra_ca).unwrap_or_default();
        let addresses = Addresses::open(self.folders.addresses(), subnet, config.quarantine);
        Ok(Host {
            announcer: Announcer::new(discoverd, routers, &self.file.id, &boot_id),
            settings: Settings {
                id: self.file.id.clone(),
                boot_id,
                subnet,
                gateway,
                external_ip,
                prefix: config.prefix.clone(),
                network: config.network.clone(),
                discoverd_port: config.discoverd_port,
                env: env.into_iter().collect(),
                disk_reserve: config.disk_reserve,
                memory_overcommit: config.memory_overcommit,
                ended_jobs: config.ended_jobs,
                settle: config.settle,
            },
            file: Mutex::new(self.file.clone()),
            slugs: Slugs::new(self.engine.clone(), shelf, &config.prefix),
            registry: Registry::new(journal),
            addresses: addresses.context("reading the addresses")?,
            deaths: Deaths::default(),
            terms: Terms::open(self.folders.terms()).context("reading the highest term")?,
            folders: self.folders.clone(),
            engine: self.engine.clone(),
            http: self.http.clone(),
            lifetime: lifetime.clone(),
            accepting: tokio::sync::Mutex::default(),
        })
    }
}

fn keep_deaths(host: &Arc<Host>) {
    let listener = host.clone();
    host.lifetime.spawn("deaths", move |stop| async move {
        let label = format!("{LABEL_HOST}={}", listener.settings.id);
        listener.deaths.keep(&listener.engine, &label, stop).await;
    });
}

/// Runs a loop that may be cut off in the middle of a round.
fn keep_up<R: Reconcile + Send + 'static>(
    host: &Host,
    name: &'static str,
    pause: Duration,
    what: R,
) {
    host.lifetime.spawn(name, move |stop| async move {
        let nobody = Notify::new();
        tokio::select! {
            () = stop.cancelled() => {}
            () = keep(what, &nobody, pause, stop.clone()) => {}
        }
    });
}

/// Registrations again, and nothing in discoverd that no job is.
struct Announcements(Arc<Host>);

impl Reconcile for Announcements {
    type Error = discoverd_client::Error;

    async fn reconcile(&mut self) -> Result<(), discoverd_client::Error> {
        self.0.announcer.reconcile().await?;
        self.0.announcer.withdraw_strays().await
    }
}

/// The network as it should be, and no logs of long ago.
struct House(Arc<Host>, JobNetwork);

impl Reconcile for House {
    type Error = NetworkError;

    async fn reconcile(&mut self) -> Result<(), NetworkError> {
        let folder = self.0.folders.logs();
        let known = self.0.registry.all();
        let swept = tokio::task::spawn_blocking(move || {
            logs::sweep(&folder, &|job| known.contains_key(&job))
        });
        if let Ok(Err(err)) = swept.await {
            warn!(error = %err, "old logs could not be removed");
        }
        self.1.ensure(&self.0.engine).await
    }
}

async fn serve(
    config: &Config,
    host: Arc<Host>,
    cluster_key: &str,
    network: JobNetwork,
    lifetime: &Lifetime,
) -> anyhow::Result<Running> {
    let listen = async |ip: Ipv4Addr, port: u16| {
        let listening = TcpListener::bind((ip, port)).await;
        listening.with_context(|| format!("listening on {ip}:{port}"))
    };
    let local = listen(Ipv4Addr::LOCALHOST, config.port).await?;
    let local_addr = local.local_addr()?;
    let gateway = listen(host.settings.gateway, local_addr.port()).await?;
    let gateway_addr = gateway.local_addr()?;
    let key = key::derive(cluster_key, "flynn-host", key::VERSION);
    let leadership = Arc::new(Leadership::new(host.clone(), gateway_addr.to_string(), key.clone()));
    let app = App { host: host.clone(), leadership: leadership.clone() };
    for listener in [local, gateway] {
        lifetime.serve(listener, router(app.clone(), &key));
    }
    lifetime.spawn("leadership", move |stop| leadership.keep(stop));
    info!("host {} serves on {local_addr} and {gateway_addr}", host.settings.id);
    let (id, engine) = (host.settings.id.clone(), host.engine.clone());
    Ok(Running { local: local_addr, gateway: gateway_addr, id, network, engine })
}
