//! Where the parts are made and joined.

use std::{net::SocketAddr, time::Duration};

use api::error::ErrorCode;
use daemon::{Lifetime, auth::Keys};
use tokio::{net::TcpListener, sync::oneshot, time::timeout};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::{
    config::Config,
    deletions, deployer,
    error::Error,
    events::Events,
    git_deploys::DeployKeys,
    neighbours::Neighbours,
    orphans::{self, Attachments},
    purges, retention,
    routes::routes,
    scope::Scopes,
    store, unordered,
};

/// Connections to the database.
const CONNECTIONS: usize = 16;

/// What must be finished has two requests to a provider before it at most, of a minute each, and its own of the database.
const FINISH: Duration = Duration::from_secs(150);

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
    pub(crate) builds_at_once: u32,
    /// How long it is good that a controller says whom it relays for.
    pub(crate) attach_lease: Duration,
    /// Whom this one relays for.
    pub(crate) attachments: Attachments,
    /// How long a removed resource can be restored.
    pub(crate) resource_grace: Duration,
    /// How much of the past is kept.
    pub(crate) retention: crate::Retention,
    /// What a job that deploys a repository is given.
    pub(crate) deploy_keys: Option<DeployKeys>,
    /// What must come to its end before this one does.
    pub(crate) under_way: TaskTracker,
}

impl Controller {
    /// Does work of its own, which goes on when who asked for it has gone: a request is dropped with its client, in the
    /// middle of whatever it does. It ends with the daemon.
    pub(crate) async fn carry_out<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        self.lifetime.spawn_request(async move {
            // Who asked may be gone.
            let _ = answer.send(work.await);
        });
        let stopping = || Error::Away("the controller is stopping; try again".into());
        answered.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Does work that must come to its end: a daemon that is told to stop finishes it first. Were it dropped between two
    /// steps, what it made would be nobody's.
    pub(crate) async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let work = self.under_way.track_future(work);
        let finished = self.lifetime.carry_out(work).await;
        finished.unwrap_or_else(|panicked| Err(Error::Away(panicked.to_string())))
    }
}

/// A controller that serves.
#[derive(Debug, Clone)]
pub struct Running {
    /// Where.
    pub addr: SocketAddr,
    attachments: Attachments,
    attach_grace: Duration,
    under_way: TaskTracker,
}

impl Running {
    /// Waits, once the daemon stops, until the last attached job has ended, or its grace is over.
    pub async fn until_detached(&self) {
        if timeout(self.attach_grace, self.attachments.none_left()).await.is_err() {
            warn!("attached jobs are stopped: they had {:?} to end", self.attach_grace);
        }
    }

    /// Waits, once the daemon stops, until what was begun and must not be cut off has come to its end: what providers are
    /// asked, above all.
    pub async fn until_finished(&self) {
        self.under_way.close();
        if timeout(FINISH, self.under_way.wait()).await.is_err() {
            warn!("what was begun is cut off: it had {FINISH:?} to end");
        }
    }

    /// Stops the attached jobs that are left.
    pub fn detach(&self) {
        self.attachments.cut();
    }
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
    let (attachments, under_way) = (Attachments::default(), TaskTracker::new());
    let controller = Controller {
        db: db.clone(),
        events: events.clone(),
        neighbours: Neighbours::new(&config),
        lifetime: lifetime.clone(),
        default_route_domain: config.default_route_domain,
        builds_at_once: config.builds_at_once,
        attach_lease: config.attach_lease,
        attachments: attachments.clone(),
        resource_grace: config.resource_grace,
        retention: config.retention,
        under_way: under_way.clone(),
        deploy_keys: DeployKeys::first_of(&config.gitreceive_key, config.shelf_key.as_deref()),
    };
    lifetime.spawn("migrations", |stop| async move {
        let migrated =
            stop.run_until_cancelled(db.migrate(store::migrations::migrations::runner()));
        let _ = migrated.await;
    });
    lifetime.spawn("event nudges", |_| events.clone().keep_hearing());
    lifetime.spawn("events", |_| events.keep_reading());
    lifetime.spawn("deletions", |stop| deletions::keep(controller.clone(), stop));
    lifetime.spawn("left-over jobs", |stop| {
        deletions::keep_stopping_left_over(controller.clone(), stop)
    });
    lifetime.spawn("jobs never ordered", |stop| unordered::keep(controller.clone(), stop));
    lifetime.spawn("orphans", |stop| orphans::keep(controller.clone(), stop));
    lifetime.spawn("purges", |stop| under_way.track_future(purges::keep(controller.clone(), stop)));
    lifetime.spawn("retention", |stop| retention::keep(controller.clone(), stop));
    lifetime.spawn("deployments", |stop| deployer::keep(controller.clone(), stop));
    let scopes = Scopes {
        controller: controller.clone(),
        people: config.keys,
        pushes: Keys::parse(&config.gitreceive_key),
    };
    let status = daemon::status::status({
        let controller = controller.clone();
        move || health(controller.clone())
    });
    lifetime.serve_with_status(listener, routes(controller, scopes), status);
    info!(%addr, "the controller listens on {addr}");
    Ok(Running { addr, attachments, attach_grace: config.attach_grace, under_way })
}

/// Whether it can do its work with the settings it has: the database answers, and the hosts take its key.
async fn health(controller: Controller) -> Result<(), String> {
    let asked = async { store::events::last(&controller.db.client().await?).await };
    asked.await.map_err(|err| format!("the database cannot be asked: {err}"))?;
    match controller.neighbours.sampi().state().await {
        Err(err) if err.code() == Some(ErrorCode::Unauthorized) => {
            Err(format!("the hosts do not take HOST_KEY: {err}"))
        }
        // That no host leads at the moment is none of its settings.
        _ => Ok(()),
    }
}
