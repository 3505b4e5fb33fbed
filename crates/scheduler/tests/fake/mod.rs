//! A cluster that is faked on the wire: a discoverd, a controller and a host that speak HTTP and server-sent events.
//! The host keeps the cluster's state with the real sampi.

mod controller;
mod discoverd;
mod host;

use std::net::SocketAddr;

use api::discoverd::Term;
use axum::Router;
pub(crate) use controller::{FakeController, formation};
use daemon::Lifetime;
pub(crate) use discoverd::FakeDiscoverd;
use futures_util::{Stream, StreamExt, stream};
pub(crate) use host::FakeHost;
use scheduler::Config;
use tokio::{net::TcpListener, sync::broadcast};
use tokio_stream::wrappers::BroadcastStream;

pub(crate) const KEY: &str = "secret";

/// All the neighbours, and schedulers among them.
pub(crate) struct Cluster {
    pub(crate) discoverd: FakeDiscoverd,
    pub(crate) controller: FakeController,
    pub(crate) host: FakeHost,
    discoverd_url: String,
    lifetime: Lifetime,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let lifetime = Lifetime::default();
        let discoverd = FakeDiscoverd::default();
        let controller = FakeController::default();
        let discoverd_addr = serve(&lifetime, discoverd.router()).await;
        let controller_addr = serve(&lifetime, controller.router()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host_addr = listener.local_addr().unwrap();
        let host = FakeHost::new("host0", host_addr);
        lifetime.serve(listener, host.router());
        discoverd.register("controller", controller_addr, &[]);
        discoverd.register("flynn-host", host_addr, &[("id", "host0")]);
        let discoverd_url = format!("http://{discoverd_addr}");
        Self { discoverd, controller, host, discoverd_url, lifetime }
    }

    /// Adds a host with so much memory.
    pub(crate) async fn add_host(&self, id: &str, gib: u64) -> FakeHost {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let host = self.host.beside(id, addr, gib);
        self.lifetime.serve(listener, host.router());
        self.discoverd.register("flynn-host", addr, &[("id", id)]);
        host
    }

    /// Runs a scheduler, not yet known to discoverd, so it does not lead.
    pub(crate) async fn scheduler(&self, job_id: &str) -> Lifetime {
        let lifetime = Lifetime::default();
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            controller_key: KEY.into(),
            host_key: KEY.into(),
            discoverd: self.discoverd_url.clone(),
            job_id: job_id.into(),
        };
        scheduler::start(config, &lifetime).await.unwrap();
        lifetime
    }

    /// Runs a scheduler that leads.
    pub(crate) async fn leading_scheduler(&self) -> Lifetime {
        let lifetime = self.scheduler("job-a").await;
        self.discoverd.lead("controller-scheduler", "job-a", 1);
        lifetime
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.lifetime.end();
    }
}

async fn serve(lifetime: &Lifetime, router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    lifetime.serve(listener, router);
    addr
}

/// What there is, then what comes, until the subscriber lags or is cut off.
fn follow<T: Clone + Send + 'static>(
    listing: Vec<T>,
    live: broadcast::Receiver<Option<T>>,
) -> impl Stream<Item = T> + Send {
    let live = BroadcastStream::new(live)
        .take_while(|item| std::future::ready(matches!(item, Ok(Some(_)))))
        .filter_map(|item| std::future::ready(item.ok().flatten()));
    stream::iter(listing).chain(live)
}

pub(crate) fn term(revision: u64) -> Term {
    Term { epoch: 1, revision }
}
