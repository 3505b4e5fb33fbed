//! One lifetime: a signal to stop, and a roll-call of who still works. No task runs outside it.

use std::{
    future::{Future, pending},
    panic::AssertUnwindSafe,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
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

/// Accepted work came to no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what was accepted could not be finished because of an error in this daemon; see its log")]
pub struct WorkPanicked;

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

    /// Carries out what was accepted and answers what came of it. The work is the daemon's, as with
    /// [`Lifetime::spawn_drained`]: when whoever waits for the answer goes away it is finished all the same.
    ///
    /// # Errors
    /// [`WorkPanicked`] when it came to no result.
    pub async fn carry_out<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, WorkPanicked> {
        let (answer, answered) = oneshot::channel();
        self.spawn_drained(async move {
            // The asker may be gone.
            let _ = answer.send(work.await);
        });
        answered.await.map_err(|_| WorkPanicked)
    }

    /// Waits for SIGTERM, SIGINT, SIGHUP or [`Lifetime::end`]. Answers whether it was a signal: else something that the daemon
    /// cannot do without has failed, and it is of no use to anybody.
    pub async fn until_signalled(&self) -> bool {
        self.stop.run_until_cancelled(signalled()).await.is_some()
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

/// Waits for SIGTERM, SIGINT or SIGHUP, of those that come from now on. The last one comes when the terminal goes that a daemon was
/// started from, which is no reason to drop what is under way.
///
/// # Panics
/// When the process may not catch them.
pub async fn signalled() {
    let mut term = signal(SignalKind::terminate()).expect("SIGTERM can be caught");
    let mut int = signal(SignalKind::interrupt()).expect("SIGINT can be caught");
    let hangup = async {
        // Catching it would undo what `nohup` did.
        if is_ignored(SignalKind::hangup()) {
            return pending().await;
        }
        signal(SignalKind::hangup()).expect("SIGHUP can be caught").recv().await
    };
    tokio::select! {
        _ = term.recv() => info!("SIGTERM: stopping"),
        _ = int.recv() => info!("SIGINT: stopping"),
        _ = hangup => info!("SIGHUP: stopping"),
    }
}

/// Whether this process was started with a signal ignored.
fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask & (1 << (signal.as_raw_value() - 1)) != 0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn accepted_work_is_finished_when_its_asker_is_gone() {
        let lifetime = Lifetime::default();
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (done, mut finished) = oneshot::channel();
        let work = {
            let (begun, go_on) = (begun.clone(), go_on.clone());
            async move {
                begun.notify_one();
                go_on.notified().await;
                let _ = done.send(());
            }
        };
        tokio::select! {
            _ = lifetime.carry_out(work) => panic!("it waits"),
            () = begun.notified() => {}
        }
        assert!(finished.try_recv().is_err());
        go_on.notify_one();
        lifetime.drain(Duration::from_secs(10)).await.unwrap();
        finished.await.unwrap();
    }

    #[tokio::test]
    async fn work_that_panics_is_told_to_its_asker() {
        let lifetime = Lifetime::default();
        let answer: Result<(), _> = lifetime.carry_out(async { panic!("as it should") }).await;
        assert_eq!(answer, Err(WorkPanicked));
    }
}
