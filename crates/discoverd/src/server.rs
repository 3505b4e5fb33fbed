//! Where the parts are made and joined.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use api::discoverd::Event;
use axum::{Router, routing::MethodRouter};
use daemon::Lifetime;
use keyspace::Keyspace;
use tokio::{net::TcpListener, sync::watch};
use tracing::{info, warn};

use crate::{
    config::Config,
    dns, election,
    lease::{self, Notebook},
    mirror::{Freshness, Mirror},
    registrar::{self, Registrar},
    relay::Listings,
    routes::{App, router},
    source::Source,
    store::Store,
};

/// How often an address that the host does not have yet is tried.
const BIND_PAUSE: Duration = Duration::from_millis(500);

/// A running discoverd.
#[derive(Debug)]
pub struct Running {
    /// Where it serves HTTP; addresses the host does not have yet are missing.
    pub addrs: Vec<SocketAddr>,
    /// Where it serves DNS.
    pub dns_addrs: Vec<SocketAddr>,
}

/// Why discoverd could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken or forbidden.
    #[error("{addr} cannot be listened on")]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The endpoints cannot be used.
    #[error(transparent)]
    Etcd(#[from] keyspace::Error),
}

/// Starts it. etcd need not be there.
pub async fn start(config: Config, lifetime: &Lifetime) -> Result<Running, StartError> {
    let keyspace = Keyspace::connect(&config.etcd).await?;
    let store = Store::new(keyspace, config.host_id);
    let mirror = Mirror::new();
    let (published, lease) = watch::channel(None);
    let registrar = Registrar::new(store.clone(), mirror.clone(), lease);
    let app = App {
        mirror: mirror.clone(),
        registrar: registrar.clone(),
        store: store.clone(),
        listings: Listings::default(),
        stop: lifetime.stop(),
    };

    let router = router(app, config.keys);
    let known = mirror.clone();
    let status = daemon::status::status(move || std::future::ready(health(&known)));
    let mut addrs = Vec::new();
    for addr in config.listen {
        let bind = move || TcpListener::bind(addr);
        let serve = serve_http(lifetime.clone(), router.clone(), status.clone());
        addrs.extend(listen(lifetime, addr, bind, serve).await?);
    }
    let forwarder = dns::Forwarder::new(config.resolv_conf, &config.dns_listen);
    let mut dns_addrs = Vec::new();
    for addr in config.dns_listen {
        let server = dns::Server::new(lifetime.clone(), mirror.clone(), forwarder.clone());
        let bind = move || dns::bind(addr);
        dns_addrs.extend(listen(lifetime, addr, bind, move |bound| server.serve(bound)).await?);
    }

    let learner = registrar.clone();
    let source = Source {
        mirror: mirror.clone(),
        store: store.clone(),
        relay: config.relay,
        learned: move |events: &[Event]| learner.learned(events),
    };
    lifetime.spawn("mirror", |stop| source.keep(stop));
    lifetime.spawn("election", |stop| election::keep(mirror, store.clone(), stop));
    let notebook = Notebook { folder: config.state_dir, boot_id: config.boot_id };
    lifetime
        .spawn("lease", |stop| lease::keep(store, notebook, registrar.clone(), published, stop));
    lifetime.spawn("registrar", |stop| registrar::keep(registrar, stop));
    Ok(Running { addrs, dns_addrs })
}

/// Whether what it answers is what is. While etcd is away it goes on answering what it knew: that is no reason to end it.
fn health(mirror: &Mirror) -> Result<(), String> {
    match mirror.freshness() {
        Freshness::Relayed | Freshness::Current => Ok(()),
        Freshness::Unknown => Err("etcd has not told yet what there is".into()),
        Freshness::Stale => Err("etcd is away; what was known last is answered".into()),
    }
}

fn serve_http(
    lifetime: Lifetime,
    router: Router,
    status: MethodRouter,
) -> impl FnOnce(TcpListener) -> io::Result<SocketAddr> + Send + 'static {
    move |listener| {
        let addr = listener.local_addr()?;
        lifetime.serve_with_status(listener, router, status);
        Ok(addr)
    }
}

/// Binds and serves. An address the host does not have yet (the job bridge, early after boot) is tried until it has.
async fn listen<B, F>(
    lifetime: &Lifetime,
    addr: SocketAddr,
    mut bind: impl FnMut() -> F + Send + 'static,
    serve: impl FnOnce(B) -> io::Result<SocketAddr> + Send + 'static,
) -> Result<Option<SocketAddr>, StartError>
where
    F: Future<Output = io::Result<B>> + Send,
    B: Send + 'static,
{
    let failed = |source| StartError::Listen { addr, source };
    match bind().await {
        Ok(bound) => return serve(bound).map(Some).map_err(failed),
        Err(err) if err.kind() == io::ErrorKind::AddrNotAvailable => {}
        Err(err) => return Err(failed(err)),
    }
    warn!(%addr, "this host does not have {addr} yet; trying until it does");
    let trying = async move {
        let bound = loop {
            tokio::time::sleep(BIND_PAUSE).await;
            match bind().await {
                Ok(bound) => break bound,
                Err(err) if err.kind() == io::ErrorKind::AddrNotAvailable => {}
                Err(err) => {
                    warn!(%addr, error = %err, "{addr} cannot be listened on; trying again")
                }
            }
        };
        if serve(bound).is_ok() {
            info!(%addr, "discoverd listens on {addr}, too");
        }
    };
    lifetime.spawn("listen", |stop| async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = trying => {}
        }
    });
    Ok(None)
}
