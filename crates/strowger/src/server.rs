//! Where the parts are made and joined.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use daemon::{Lifetime, auth::Keys};
use discoverd_client::Discoverd;
use keyspace::Keyspace;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Config,
    live::Live,
    proxy::{Listener, TcpRoutes, accept_http},
    routes::{self, Api},
    store::Routes,
    tls, watch,
};

/// A predecessor lets go of its ports within this time, or never.
const BIND_LIMIT: Duration = Duration::from_secs(60);
/// Clients wait in the queue so long for the first routes and backends; then they are told that there are none.
const KNOWN_LIMIT: Duration = Duration::from_secs(20);
/// Ports of the layers below, on every host: ssh, DNS, discoverd, flynn-host, etcd.
const RESERVED: [u16; 6] = [22, 53, 1111, 1113, 2379, 2380];

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
    let live = Arc::new(Live::default());
    let keyspace = Keyspace::connect(&config.etcd).await?;
    let store = Routes::new(keyspace);
    let discoverd = Discoverd::new(&config.discoverd, None);

    let http = bind_patiently(config.http_port).await?;
    let https = bind_patiently(config.https_port).await?;
    let mut apis = Vec::new();
    for ip in config.api_listen.iter().chain(&config.gateway) {
        apis.push(bind_api(*ip, config.port).await?);
    }
    let running = Running {
        http: http.addr(),
        https: https.addr(),
        api: apis.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?,
    };

    let tcp = TcpRoutes::new(live.clone(), lifetime.clone());
    let (routes, shared) = (store.watch(), live.clone());
    lifetime.spawn("routes", |stop| watch::keep_routes(routes, shared, tcp, stop));
    let (services, shared) = (discoverd.watch_all(), live.clone());
    lifetime.spawn("services", |stop| watch::keep_services(services, shared, stop));
    let shared = live.clone();
    lifetime.spawn("sweep", |stop| watch::keep_swept(shared, stop));
    let shared = live.clone();
    lifetime.spawn("probe", |stop| watch::keep_probed(shared, stop));

    let acceptor = tls::acceptor(live.clone())?;
    serve(lifetime, live.clone(), http, None);
    serve(lifetime, live.clone(), https, Some(acceptor));

    let mut reserved = RESERVED.to_vec();
    reserved.extend([running.http.port(), running.https.port()]);
    reserved.extend(running.api.iter().map(SocketAddr::port));
    let (stop, known) = (lifetime.stop(), live.clone());
    let api = Api { routes: store, live, reserved: reserved.into(), stop };
    let router = routes::router(api, Keys::parse(&config.key.0));
    let status = daemon::status::status(move || ready(known.clone()));
    for listener in apis {
        lifetime.serve_with_status(listener, router.clone(), status.clone());
    }
    info!(http = %running.http, https = %running.https, api = ?running.api, "serving");
    Ok(running)
}

/// Whether it has what it serves by. Once it had, it serves on from memory, whatever is away.
async fn ready(live: Arc<Live>) -> Result<(), String> {
    if live.revision().borrow().is_none() {
        return Err("the routes are not known yet: etcd does not tell them".into());
    }
    if live.services.revision().borrow().is_none() {
        return Err("the backends are not known yet: discoverd does not tell them".into());
    }
    Ok(())
}

/// Accepts clients as soon as routes and backends are known.
fn serve(
    lifetime: &Lifetime,
    live: Arc<Live>,
    listener: Listener,
    tls: Option<tokio_rustls::TlsAcceptor>,
) {
    let shared = lifetime.clone();
    let accept = move |stop: CancellationToken| async move {
        let known = tokio::time::timeout(KNOWN_LIMIT, live.until_known());
        match stop.run_until_cancelled(known).await {
            Some(Ok(())) => {}
            Some(Err(_)) => warn!("routes or services are not known yet; serving what is known"),
            None => return,
        }
        accept_http(listener, tls, live, shared, stop).await;
    };
    lifetime.spawn("accept", accept);
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

/// Lets the process have as many connections as it may.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(err) = setrlimit(Resource::Nofile, all) {
        warn!(error = %err, "the limit of open files could not be raised");
    }
}
