//! Where the parts are made and joined.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use daemon::{Lifetime, auth::Keys};
use discoverd_client::Discoverd;
use keyspace::Keyspace;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use crate::{
    Config,
    acme::{self, Acme, Records},
    backend::Services,
    domain::limits::Limits,
    gate::Clients,
    handover::{self, Control, Door, Doors, Entrance, Inheritance},
    live::Live,
    proxy::{Listener, TcpRoutes, accept_http},
    routes::{self, Api},
    seal::{SealError, Seals},
    store::Routes,
    tls, watch,
};

/// A predecessor lets go of its ports within this time, or never.
const BIND_LIMIT: Duration = Duration::from_secs(60);
/// While another router holds the ports, it is asked this often for its sockets.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Clients wait in the queue so long for the first routes and backends; then they are told that there are none.
const KNOWN_LIMIT: Duration = Duration::from_secs(20);
/// Ports of the layers below, on every host: ssh, DNS, discoverd, flynn-host and its tunnel, etcd.
const RESERVED: [u16; 7] = [22, 53, 1111, 1113, 1114, 2379, 2380];

/// A running router.
#[derive(Debug, Clone)]
pub struct Running {
    /// HTTP.
    pub http: SocketAddr,
    /// HTTPS.
    pub https: SocketAddr,
    /// The API, on each address.
    pub api: Vec<SocketAddr>,
}

/// Binds everything and starts serving.
pub async fn start(config: Config, lifetime: &Lifetime) -> anyhow::Result<Running> {
    let limits = config.limits.limits();
    let services = Services::new(limits.requests, config.limits.answer_timeout.get());
    let clients = Clients::new(limits.connections, config.limits.of_client());
    let seal = Arc::new(Seals::new(&config.key.0));
    let keyspace = Keyspace::connect(&config.etcd).await?;
    let records = Records::new(keyspace.clone(), seal.clone());
    let orders = config.acme.directory()?.is_some().then(|| records.clone());
    let acme = Acme::new(orders);
    let live = Arc::new(Live::limited(services, clients, &config.key.0, seal.clone(), acme));
    let store = Routes::new(keyspace, seal.clone());
    let discoverd = Discoverd::new(&config.discoverd, None);

    let doors = Arc::new(Doors::new(live.clone()));
    let name = handover::name(config.http_port, config.https_port);
    let (inheritance, http) = first_door(config.http_port, name.as_deref(), lifetime).await?;
    let https = match inheritance.take(Door::Https) {
        Some(https) => Listener::of(https)?,
        None => bind_patiently(config.https_port).await?,
    };
    doors.add(Door::Http, http.socket());
    doors.add(Door::Https, https.socket());
    let apis = bind_apis(&config, &inheritance, &doors).await?;
    let running = Running {
        http: http.addr(),
        https: https.addr(),
        api: apis.iter().map(|api| api.local_addr()).collect::<Result<_, _>>()?,
    };

    live.set_https_port(running.https.port());
    acme::start(&config.acme, records, &live, lifetime)?;
    let inheritance = Arc::new(inheritance);
    let (of_tcp, inherited) = (doors.clone(), inheritance.clone());
    let tcp = TcpRoutes::new(live.clone(), lifetime.clone(), of_tcp, inherited);
    follow(&store, &discoverd, tcp, &live, lifetime);

    let acceptor = tls::acceptor(live.clone())?;
    serve(lifetime, live.clone(), http, doors.entrance(), None);
    serve(lifetime, live.clone(), https, doors.entrance(), Some(acceptor));
    let (known, open, inherited) = (live.clone(), doors.clone(), inheritance.clone());
    lifetime.spawn("opening", |stop| async move {
        stop.run_until_cancelled(open_when_known(&known, &open, &inherited)).await;
    });

    let (stop, known) = (lifetime.stop(), live.clone());
    let predecessor = inheritance.predecessor.clone();
    let reserved = reserved(&running).into();
    let api = Api { routes: store, live, reserved, predecessor: predecessor.clone(), stop };
    let control = Control::new(doors.clone(), predecessor, api.clone());
    let router = routes::router(api, Keys::parse(&config.key.0));
    let status = daemon::status::status(move || ready(known.clone()));
    for api in apis {
        lifetime.serve_while_open(api, doors.api_entrance(), router.clone(), status.clone());
    }
    if let Some(name) = name {
        lifetime.spawn("successors", |stop| async move {
            handover::keep_successors(&name, control, stop).await;
        });
    }
    let Limits { connections, requests } = limits;
    info!(http = %running.http, https = %running.https, api = ?running.api, connections, requests, "serving");
    Ok(running)
}

/// Follows etcd and discoverd, and looks after connections and keys.
fn follow(
    store: &Routes,
    discoverd: &Discoverd,
    tcp: TcpRoutes,
    live: &Arc<Live>,
    lifetime: &Lifetime,
) {
    let (routes, shared) = (store.watch(), live.clone());
    lifetime.spawn("routes", |stop| watch::keep_routes(routes, shared, tcp, stop));
    let (services, shared) = (discoverd.watch_all(), live.clone());
    lifetime.spawn("services", |stop| watch::keep_services(services, shared, stop));
    let shared = live.clone();
    lifetime.spawn("sweep", |stop| watch::keep_swept(shared, stop));
    let routes = store.clone();
    lifetime.spawn("seal", |stop| watch::keep_sealed(routes, stop));
    let shared = live.clone();
    lifetime.spawn("probe", |stop| watch::keep_probed(shared, stop));
}

/// Ports that no tcp route may have.
fn reserved(running: &Running) -> Vec<u16> {
    let own = [running.http.port(), running.https.port()];
    let of_api = running.api.iter().map(SocketAddr::port);
    RESERVED.into_iter().chain(own).chain(of_api).collect()
}

/// The port for HTTP, and with it all that a predecessor hands over; one that ends is waited for.
async fn first_door(
    port: u16,
    name: Option<&Path>,
    lifetime: &Lifetime,
) -> anyhow::Result<(Inheritance, Listener)> {
    let deadline = Instant::now() + BIND_LIMIT;
    loop {
        let inheritance = match name {
            Some(name) => Inheritance::ask(name, lifetime).await,
            None => Inheritance::default(),
        };
        if let Some(http) = inheritance.take(Door::Http) {
            return Ok((inheritance, Listener::of(http)?));
        }
        let patience = deadline.saturating_duration_since(Instant::now()).min(ASK_INTERVAL);
        match Listener::bind_patiently(port, patience).await {
            Ok(http) => return Ok((inheritance, http)),
            Err(err) if err.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {}
            Err(err) => {
                return Err(err).with_context(|| format!("port {port} cannot be bound"));
            }
        }
    }
}

async fn bind_apis(
    config: &Config,
    inheritance: &Inheritance,
    doors: &Doors,
) -> anyhow::Result<Vec<Arc<TcpListener>>> {
    let mut apis = Vec::new();
    for ip in config.api_listen.iter().chain(&config.gateway) {
        let door = Door::Api((*ip, config.port).into());
        let api = match inheritance.take(door) {
            Some(api) => api,
            None => bind_api(*ip, config.port).await?,
        };
        let api = Arc::new(api);
        doors.add(door, api.clone());
        apis.push(api);
    }
    Ok(apis)
}

/// Accepts clients as soon as routes and backends are known. A predecessor knows them, so clients are left to it until then.
async fn open_when_known(live: &Live, doors: &Doors, inheritance: &Inheritance) {
    if let Some(predecessor) = &inheritance.predecessor {
        tokio::select! {
            () = live.until_known() => {}
            () = predecessor.until_gone() => {}
        }
    }
    if tokio::time::timeout(KNOWN_LIMIT, live.until_known()).await.is_err() {
        warn!("routes or services are not known yet; serving what is known");
    }
    doors.open();
    inheritance.accept().await;
}

/// Whether it has what it serves by. Once it had, it serves on from memory, whatever is away.
async fn ready(live: Arc<Live>) -> Result<(), String> {
    if live.revision().borrow().is_none() {
        return Err("the routes are not known yet: etcd does not tell them".into());
    }
    let sealed = live.unopened();
    if sealed > 0 {
        return Err(format!("the keys of {sealed} certificates {SealError}"));
    }
    if live.services.revision().borrow().is_none() {
        return Err("the backends are not known yet: discoverd does not tell them".into());
    }
    Ok(())
}

/// Serves the clients of a port while they are this router's.
fn serve(
    lifetime: &Lifetime,
    live: Arc<Live>,
    listener: Listener,
    entrance: Entrance,
    tls: Option<tokio_rustls::TlsAcceptor>,
) {
    let shared = lifetime.clone();
    lifetime.spawn("accept", |stop| accept_http(listener, entrance, tls, live, shared, stop));
}

async fn bind_patiently(port: u16) -> anyhow::Result<Listener> {
    let bound = Listener::bind_patiently(port, BIND_LIMIT).await;
    bound.with_context(|| format!("port {port} cannot be bound"))
}

/// Binds the API on one address. The address may come up after the router, and a predecessor may still hold the port.
async fn bind_api(ip: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    retried(|| TcpListener::bind((ip, port)))
        .await
        .with_context(|| format!("the API's address {ip}, port {port} cannot be bound"))
}

async fn retried<T, E, F: Future<Output = Result<T, E>>>(
    mut attempt: impl FnMut() -> F,
) -> Result<T, E> {
    let deadline = Instant::now() + BIND_LIMIT;
    loop {
        match attempt().await {
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(50)).await,
            result => return result,
        }
    }
}
