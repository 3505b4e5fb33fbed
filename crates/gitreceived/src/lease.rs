//! The right to push to an app: one push at a time, wherever its gitreceived runs.

use std::time::Duration;

use api::{controller::RepositoryLease, error::ErrorCode};
use controller_client::Controller;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::hosting::TURN_TIMEOUT;

/// How long the controller keeps a lease that nobody renews: a gitreceived that dies blocks its app for so long.
const TTL: Duration = Duration::from_secs(30);
/// Pause between two tries while somebody else has it.
const RETRY: Duration = Duration::from_secs(1);

/// A lease that is held.
#[derive(Debug)]
pub(crate) struct Lease {
    controller: Controller,
    app: String,
    lease: RepositoryLease,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoLease {
    #[error("Another push to {app} is still under way. Try again when it has ended.")]
    Busy { app: String },
    #[error(
        "The controller could not be asked whether {app} is free for a push. Try again in a minute."
    )]
    Controller {
        app: String,
        #[source]
        source: api_client::Error,
    },
}

impl Lease {
    /// Takes the lease; calls `busy` once if it has to wait.
    pub(crate) async fn take(
        controller: &Controller,
        app: &str,
        busy: impl AsyncFnOnce(),
    ) -> Result<Self, NoLease> {
        let holder = hex::encode(rand::random::<[u8; 16]>());
        let lease = RepositoryLease { holder, ttl_seconds: TTL.as_secs() as u32 };
        let deadline = Instant::now() + TURN_TIMEOUT;
        let mut busy = Some(busy);
        loop {
            match controller.lease_repository(app, &lease).await {
                Ok(_) => {
                    return Ok(Self { controller: controller.clone(), app: app.into(), lease });
                }
                Err(err) if is_taken(&err) => {}
                Err(source) => return Err(NoLease::Controller { app: app.into(), source }),
            }
            if Instant::now() > deadline {
                return Err(NoLease::Busy { app: app.into() });
            }
            if let Some(busy) = busy.take() {
                busy().await;
            }
            sleep(RETRY).await;
        }
    }

    /// Renews the lease until it is lost to another holder; never ends otherwise.
    pub(crate) async fn keep(&self) {
        loop {
            sleep(TTL / 3).await;
            match self.controller.lease_repository(&self.app, &self.lease).await {
                Ok(_) => {}
                Err(err) if is_taken(&err) => return,
                // The controller is away: whether somebody else got it is seen when it is back.
                Err(err) => warn!(error = %err, "the lease of {} could not be renewed", self.app),
            }
        }
    }

    /// Gives the lease back.
    pub(crate) async fn end(self) {
        if let Err(err) = self.controller.release_repository(&self.app, &self.lease).await {
            warn!(error = %err, "the lease of {} runs out by itself in {TTL:?}", self.app);
        }
    }
}

fn is_taken(err: &api_client::Error) -> bool {
    matches!(err.code(), Some(ErrorCode::Conflict | ErrorCode::ObjectExists))
}
