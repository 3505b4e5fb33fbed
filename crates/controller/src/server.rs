//! Where the parts are made and joined.

use std::{net::SocketAddr, time::Duration};

use daemon::Lifetime;
use tokio::{net::TcpListener, time::interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::Config, deployer, events::Events, neighbours::Neighbours, routes::routes,
    scope::Scopes, store,
};

/// Connections to the database.
const CONNECTIONS: usize = 16;
/// How often old jobs are forgotten.
const TIDY: Duration = Duration::from_secs(3600);

/// What handlers and workers share.
#[derive(Debug, Clone)]
pub(crate) struct Controller {
    /// The database.
    pub(crate) db: pg::Pool,
    /// What happens.
    pub(crate) events: Events,
    /// Other daemons.
    pub(crate) neighbours: Neighbours,
    /// The daemon's life.
    pub(crate) lifetime: Lifetime,
    /// Apps get the route `<app>.<this>`.
    pub(crate) default_route_domain: Option<String>,
}

/// A controller that serves.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    /// Where.
    pub addr: SocketAddr,
}

/// Why a controller could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Starts a controller. It serves at once, and answers 503 until there is a database.
pub async fn start(config: Config, lifetime: &Lifetime) -> Result<Running, StartError> {
    let addr = config.listen;
    let listener =
        TcpListener::bind(addr).await.map_err(|source| StartError::Bind { addr, source })?;
    let addr = listener.local_addr().map_err(|source| StartError::Bind { addr, source })?;
    let db = pg::Pool::new(config.database.clone(), CONNECTIONS);
    let events = Events::new(db.clone(), lifetime.stop());
    let controller = Controller {
        db: db.clone(),
        events: events.clone(),
        neighbours: Neighbours::new(&config),
        lifetime: lifetime.clone(),
        default_route_domain: config.default_route_domain,
    };
    lifetime.spawn("migrations", |stop| async move {
        let migrated =
            stop.run_until_cancelled(db.migrate(store::migrations::migrations::runner()));
        let _ = migrated.await;
    });
    lifetime.spawn("events", |_| events.keep_hearing());
    lifetime.spawn("deployments", |stop| deployer::keep(controller.clone(), stop));
    lifetime.spawn("tidying", |stop| keep_tidy(controller.db.clone(), stop));
    let scopes = Scopes {
        controller: controller.clone(),
        people: config.keys,
        pushes: config.gitreceive_keys,
    };
    lifetime.serve(listener, routes(controller, scopes));
    info!(%addr, "the controller listens on {addr}");
    Ok(Running { addr })
}

async fn keep_tidy(db: pg::Pool, stop: CancellationToken) {
    let mut tick = interval(TIDY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let forgotten = async { store::jobs::forget_old(&db.client().await?).await };
        if let Err(err) = forgotten.await {
            warn!(error = &err as &dyn std::error::Error, "old jobs could not be forgotten yet");
        }
    }
}
