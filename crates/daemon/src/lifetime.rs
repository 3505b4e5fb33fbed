//! One lifetime: a signal to stop, and a roll-call of who still works. No task runs outside it.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

/// The life of a daemon. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Lifetime {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Some tasks did not end in time.
#[derive(Debug, thiserror::Error)]
#[error("{unfinished} tasks were still working after {grace:?}")]
pub struct DrainTimeout {
    unfinished: usize,
    grace: Duration,
}

impl Lifetime {
    /// Is cancelled when the daemon shall stop.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Asks everything to stop.
    pub fn end(&self) {
        self.stop.cancel();
    }

    /// Runs a task that the daemon cannot do without: if it panics the daemon stops, for one that lost a loop must not
    /// look healthy.
    pub fn spawn<F>(&self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        let task = task(self.stop.child_token());
        self.tasks.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                error!(task = name, "{name} panicked; the daemon stops");
                stop.cancel();
            }
        });
    }

    /// Runs work on behalf of one request: a panic ends that work alone. It is dropped when the daemon stops.
    pub fn spawn_request(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = AssertUnwindSafe(work).catch_unwind() => {}
            }
        });
    }

    /// As [`Lifetime::spawn_request`], but work under way when the daemon stops is awaited by [`Lifetime::drain`].
    pub fn spawn_drained(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            let _ = AssertUnwindSafe(work).catch_unwind().await;
        });
    }

    /// Waits for SIGTERM, SIGINT or [`Lifetime::end`].
    pub async fn until_signalled(&self) {
        let mut term = signal(SignalKind::terminate()).expect("SIGTERM can be caught");
        let mut int = signal(SignalKind::interrupt()).expect("SIGINT can be caught");
        tokio::select! {
            _ = term.recv() => info!("SIGTERM: stopping"),
            _ = int.recv() => info!("SIGINT: stopping"),
            () = self.stop.cancelled() => {}
        }
    }

    /// Asks everything to stop and waits until it has.
    pub async fn drain(self, grace: Duration) -> Result<(), DrainTimeout> {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(grace, self.tasks.wait())
            .await
            .map_err(|_| DrainTimeout { unfinished: self.tasks.len(), grace })?;
        info!("stopped");
        Ok(())
    }
}
