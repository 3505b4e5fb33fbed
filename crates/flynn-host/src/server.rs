//! Where the parts are made and joined, in the order a boot needs: etcd, subnet, job network, discoverd, jobs, API.

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, SocketAddr},
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
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
    time::sleep,
};
use tracing::{debug, info, warn};

pub(crate) use crate::layer0::ETCD;
use crate::{
    backend::{
        engine::Engine,
        fetched::FetchedImages,
        named_user::NamedUsers,
        network::{JobNetwork, NetworkError, Overlay},
        peers::Peers,
        slug::Slugs,
    },
    cluster::{Leadership, SERVICE},
    config::Config,
    critical::Critical,
    disk,
    domain::{
        firewall::{Elsewhere, Ports},
        net::Cidr,
        spec::LABEL_HOST,
    },
    etcd::Role,
    garbage::Garbage,
    handlers::host::health,
    host::{Host, Settings},
    identity::{self, Folders, HostFile, IdentityError},
    jobs::{
        addresses::Addresses,
        announce::Announcer,
        container::{self, extra_ca},
        deaths::Deaths,
        journal::Journal,
        limits::Layers,
        registry::Registry,
        restore::restore,
    },
    layer0::{self, Layer0, Manifest},
    leaving, logs,
    neighbours::{Neighbours, Place},
    recovery,
    routes::{Alone, App, router},
    subnet::subnet,
    terms::Terms,
    volumes::{Volumes, sizes::Sizes},
};

/// How often registrations are compared with discoverd.
const ANNOUNCE: Duration = Duration::from_secs(5);
/// How often the network and old logs are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(30);
/// How often the leading host looks whether there is a controller and a scheduler.
const CRITICAL: Duration = Duration::from_secs(1);
/// How long the engine may take to come up beside us.
const ENGINE: Duration = Duration::from_secs(60);
/// Images given to other hosts at once: each costs the engine a core and the disk.
const EXPORTS: usize = 2;

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
    disk::make_private(folders.root()).context("closing the data folder to others")?;
    let cluster_key = identity::cluster_key(&folders)?;
    let engine = Engine::connect(&config.docker_socket)?;
    leaving::check(&engine, &folders, &file.id, &config).await?;
    let role = Role::read(&folders).context("reading host/etcd.json")?;
    let neighbours = if role.is_alone() {
        None
    } else {
        let opened = Neighbours::open(&config, &file, &folders, role.clone(), lifetime).await;
        let opened = opened.context("becoming one of several hosts")?;
        note_joining(&folders, &mut file, &opened)?;
        Some(opened)
    };
    until_engine_answers(&engine).await?;
    let layer0 = Layer0 {
        engine: engine.clone(),
        folders: folders.clone(),
        prefix: config.prefix.clone(),
        http: layer0::client(),
    };
    let mut manifest = Manifest {
        config: config.clone(),
        id: file.id.clone(),
        cluster_key: cluster_key.clone(),
        addr: neighbours.as_ref().map_or(Ipv4Addr::LOCALHOST, |neighbours| neighbours.addr),
        gateway: Ipv4Addr::UNSPECIFIED,
    };
    layer0.start_first(&manifest, &role, file.subnet).await?;
    let etcd_url = format!("http://127.0.0.1:{}", config.etcd_port);
    let etcd = Keyspace::connect(&[etcd_url]).await?;
    let subnet = subnet(&etcd, &folders, &mut file, lifetime).await?;
    let network = job_network(&config, &file, subnet, neighbours.as_deref());
    let peers = neighbours.as_ref().map(|neighbours| neighbours.grid.now().peers(&file.id));
    let peers = peers.unwrap_or_default();
    network.ensure(&engine, &peers).await.context("the job network is not as it should be")?;
    if let Some(neighbours) = &neighbours {
        neighbours.follow(&etcd, file.range, &network, lifetime).await?;
    }
    manifest.gateway = subnet.gateway();
    let roles = neighbours.as_ref().map(|neighbours| neighbours.role.subscribe());
    layer0.start_rest(manifest, role, roles, lifetime).await?;

    let journal = Journal::open(&folders.jobs()).context("opening the journal")?;
    disk::private_dir(&folders.logs()).context("making the folder of logs")?;
    let parts = Parts { config: &config, folders, file, cluster_key, engine };
    let several = neighbours.as_deref().map(|neighbours| (neighbours, &etcd));
    let host = Arc::new(parts.host(subnet, several, journal.clone(), lifetime)?);
    keep_deaths(&host);
    restore(&host, &journal).await.context("taking up the jobs that are there")?;
    keep_house(&config, &host, &network, neighbours.clone());
    if let Some(neighbours) = neighbours.clone() {
        let renewed = tokio::time::Instant::now();
        let (etcd, file, lifetime) = (etcd.clone(), parts.file.clone(), lifetime.clone());
        let place = Place { neighbours, host: host.clone(), etcd, subnet, file, lifetime, renewed };
        keep_up(&host, "place", ANNOUNCE, place);
    }
    serve(&config, host, &parts.cluster_key, network, Several { neighbours, etcd }, lifetime).await
}

/// What a host that may be one of several serves with.
struct Several {
    neighbours: Option<Arc<Neighbours>>,
    etcd: Keyspace,
}

/// Keeps when this host joined, which an older daemon did not.
fn note_joining(
    folders: &Folders,
    file: &mut HostFile,
    neighbours: &Neighbours,
) -> Result<(), IdentityError> {
    match (file.joined_at, neighbours.joined_at()) {
        (None, Some(at)) => {
            file.joined_at = Some(at);
            identity::write(folders, file)
        }
        _ => Ok(()),
    }
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

fn job_network(
    config: &Config,
    file: &HostFile,
    subnet: Cidr,
    neighbours: Option<&Neighbours>,
) -> JobNetwork {
    let overlay = neighbours.map(|neighbours| Overlay {
        local: neighbours.addr,
        elsewhere: Elsewhere {
            device: config.overlay.clone(),
            range: file.range,
            length: crate::subnet::LENGTH,
            vxlan_port: config.vxlan_port,
            redirect_port: config.redirect_port,
        },
    });
    JobNetwork {
        overlay,
        name: config.network.clone(),
        bridge: config.bridge.clone(),
        mtu: config.mtu,
        range: file.range,
        subnet,
        chain: config.chain.clone(),
        etcd_ports: [config.etcd_port, config.etcd_member_port, config.etcd_peer_port],
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
}

impl Parts<'_> {
    fn key(&self, service: &str) -> String {
        key::derive(&self.cluster_key, service, key::VERSION)
    }

    fn host(
        &self,
        subnet: Cidr,
        several: Option<(&Neighbours, &Keyspace)>,
        journal: Journal,
        lifetime: &Lifetime,
    ) -> anyhow::Result<Host> {
        let config = self.config;
        let boot_id = identity::boot_id().context("reading this boot's id")?;
        let url = format!("http://127.0.0.1:{}", config.discoverd_port);
        let discoverd = Discoverd::new(&url, Some(self.key("discoverd")));
        let routers = discoverd.watch("strowger-api");
        let routers = Routers::registered(routers, Some(self.key("strowger")));
        let shelf = match &config.shelf {
            Some(base) => base.as_str().into(),
            None => discoverd.watch("shelf").endpoint(),
        };
        let shelf = Shelf::new(shelf, self.key("shelf"));
        let gateway = subnet.gateway();
        let external_ip = config
            .external_ip
            .or(several.map(|(neighbours, _)| IpAddr::V4(neighbours.addr)))
            .unwrap_or(gateway.into())
            .to_string();
        let env = config.extra_ca.as_deref().map(extra_ca).unwrap_or_default();
        let (others, key) = (discoverd.watch(SERVICE), self.key("flynn-host"));
        let peers = Peers::new(self.engine.clone(), others, &self.file.id, key);
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
            volumes: Volumes::new(
                &self.file.id,
                several.map(|(neighbours, etcd)| (etcd.clone(), neighbours.grid.clone())),
            ),
            sizes: Sizes::default(),
            fetched: FetchedImages::new(self.engine.clone(), shelf.clone(), &config.prefix),
            named_users: NamedUsers::new(self.engine.clone(), &self.file.id, &config.prefix),
            slugs: Slugs::new(self.engine.clone(), shelf, &config.prefix),
            peers,
            exports: Arc::new(Semaphore::new(EXPORTS)),
            registry: Registry::new(journal),
            addresses: addresses.context("reading the addresses")?,
            deaths: Deaths::default(),
            layers: Layers::new(self.engine.clone(), config.measured_every),
            terms: Terms::open(self.folders.terms()).context("reading the highest term")?,
            folders: self.folders.clone(),
            engine: self.engine.clone(),
            lifetime: lifetime.clone(),
            accepting: Arc::default(),
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

fn keep_house(
    config: &Config,
    host: &Arc<Host>,
    network: &JobNetwork,
    neighbours: Option<Arc<Neighbours>>,
) {
    keep_up(host, "announcements", ANNOUNCE, Announcements(host.clone()));
    keep_up(host, "housekeeping", HOUSEKEEPING, House(host.clone(), network.clone(), neighbours));
    let garbage = Garbage::open(host.clone(), config.rules());
    keep_up(host, "garbage", config.garbage_every, garbage);
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
        self.0.announcer.reconcile().await
    }
}

/// The network as it should be, and no logs of long ago.
struct House(Arc<Host>, JobNetwork, Option<Arc<Neighbours>>);

impl Reconcile for House {
    type Error = NetworkError;

    async fn reconcile(&mut self) -> Result<(), NetworkError> {
        if let Err(err) = self.0.volumes.claim_all(&self.0.folders.volumes()).await {
            debug!(
                error = &err as &dyn Error,
                "the volumes here could not be claimed; trying again"
            );
        }
        let folder = self.0.folders.logs();
        let known = self.0.registry.all();
        let short = self.0.is_short();
        let data_dir = self.0.folders.root().to_owned();
        let swept = tokio::task::spawn_blocking(move || {
            if let Err(err) = disk::keep_ballast(&data_dir) {
                warn!(error = %err, "no disk could be set aside for stopping jobs on a full one");
            }
            logs::sweep(&folder, short, &|job| known.contains_key(&job))
        });
        if let Ok(Err(err)) = swept.await {
            warn!(error = %err, "old logs could not be removed");
        }
        // Not worth a host that does not start, where the kernel does not know whose a connection is.
        let users = container::callers(&self.0).await;
        if let Err(err) = self.1.ensure_callers(&users).await {
            warn!(error = &err as &dyn Error, "etcd on this host answers everybody");
        }
        let id = &self.0.settings.id;
        let peers = self.2.as_ref().map(|neighbours| neighbours.grid.now().peers(id));
        self.1.ensure(&self.0.engine, &peers.unwrap_or_default()).await
    }
}

async fn serve(
    config: &Config,
    host: Arc<Host>,
    cluster_key: &str,
    network: JobNetwork,
    several: Several,
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
    let Several { neighbours, etcd } = several;
    if let Some(neighbours) = &neighbours {
        neighbours.lead(leadership.clone(), etcd.clone(), lifetime);
    }
    let key_of_specs = key::derive(cluster_key, "critical", key::VERSION);
    let critical = Critical::new(leadership.clone(), etcd.clone(), &key_of_specs);
    keep_up(&host, "critical services", CRITICAL, critical);
    let alone = Alone { tunnel_port: config.tunnel_port, etcd_peer_port: config.etcd_peer_port };
    let app = App { host: host.clone(), leadership: leadership.clone(), neighbours, etcd, alone };
    let asked = app.clone();
    let status = daemon::status::status(move || health(asked.clone()));
    for listener in [local, gateway] {
        lifetime.serve_with_status(listener, router(app.clone(), &key), status.clone());
    }
    lifetime.spawn("recovery", move |stop| recovery::finish(app, stop));
    lifetime.spawn("leadership", move |stop| leadership.keep(stop));
    info!("host {} serves on {local_addr} and {gateway_addr}", host.settings.id);
    let (id, engine) = (host.settings.id.clone(), host.engine.clone());
    Ok(Running { local: local_addr, gateway: gateway_addr, id, network, engine })
}
