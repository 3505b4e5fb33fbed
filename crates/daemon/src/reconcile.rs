//! Loops that reconcile.

use std::{error::Error, future::Future, time::Duration};

use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Something that compares what is with what should be and mends the difference. Doing it twice is doing it once.
pub trait Reconcile: Send {
    /// Why it fell short.
    type Error: Error + 'static;

    /// One round.
    fn reconcile(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Runs a round at every nudge and at every tick. A nudge carries no news, so a lost one costs only time.
pub async fn keep<R: Reconcile>(
    mut what: R,
    nudged: &Notify,
    sweep: Duration,
    stop: CancellationToken,
) {
    let mut tick = interval(sweep);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = nudged.notified() => {}
            _ = tick.tick() => {}
        }
        if let Err(err) = what.reconcile().await {
            warn!(
                error = &err as &dyn Error,
                "a round of reconciliation fell short; the next one tries again"
            );
        }
    }
}
