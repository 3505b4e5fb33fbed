//! The end of a process that is to end, in order.
//!
//! Withdrawn first, it is sent nothing new; requests under way are finished; then it is told, while connections that were
//! upgraded are still open, so that it can say goodbye on them; they are closed when it has ended.

use std::{error::Error, time::Duration};

use api::{host::ActiveJob, id::JobId};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::life::Process;
use crate::{domain::signals, host::Host};

const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;
/// Time between SIGTERM and SIGKILL of a job that its own check condemns.
pub(super) const CONDEMNED: Duration = Duration::from_secs(5);
/// Status of what ended by SIGKILL.
pub(super) const KILLED_STATUS: i32 = 128 + 9;
/// Between looks whether a process has a handler for the signal it was sent.
const HANDLER_INTERVAL: Duration = Duration::from_millis(100);
/// The engine is given so long to report the end of what was killed.
const KILLED: Duration = Duration::from_secs(30);
/// A job whose end cannot be announced, because discovery is away, is told of it after this time at most.
const WITHDRAWAL: Duration = Duration::from_secs(30);
/// Requests under way keep a process from being told for this long at most: it may go on with them after that.
const REQUESTS: Duration = Duration::from_secs(10);

/// Withdraws a job, lets requests under way finish, and ends its process.
pub(super) async fn stop(host: &Host, process: &mut Process, active: &ActiveJob) -> i32 {
    let limit = Duration::from_secs(active.job.config.stop_timeout_seconds.into());
    let announcer = &host.announcer;
    let mut left_open = None;
    if !announcer.instances_of(active).is_empty() {
        let mut death = process.death.clone();
        let quiet = async {
            // While discovery is away the routers still choose this job: it serves until they cannot.
            let revision = timeout(WITHDRAWAL.min(limit), announcer.until_withdrawn(active)).await;
            let revision = revision.unwrap_or_default();
            let open = announcer.drain(active, revision, REQUESTS.min(limit)).await;
            left_open = (open > 0).then_some(revision);
        };
        tokio::select! {
            _ = death.wait() => {}
            () = quiet => {}
        }
    }
    let status = end(host, active.job.id, process, limit).await;
    if let Some(revision) = left_open {
        // Of a process that is gone with its network a router may hear nothing.
        announcer.cut(active, revision).await;
    }
    status
}

/// SIGTERM, and after a while SIGKILL.
pub(super) async fn end(host: &Host, id: JobId, process: &mut Process, patience: Duration) -> i32 {
    let container = process.container.clone();
    let told = async {
        let caught = process.catches(SIGTERM);
        send(host, id, &container, SIGTERM).await;
        // The kernel gives a container's first process no signal that it has no handler for. One that has just begun has
        // none yet: it would run on until it is killed, an hour for what may relay sessions. Before and after, since what
        // the engine starts it with has handlers.
        if !caught || !process.catches(SIGTERM) {
            process.until_it_catches(SIGTERM).await;
            send(host, id, &container, SIGTERM).await;
        }
        std::future::pending().await
    };
    let mut death = process.death.clone();
    let ended = async {
        tokio::select! {
            status = death.wait() => status,
            never = told => never,
        }
    };
    if let Ok(status) = timeout(patience, ended).await {
        return status;
    }
    send(host, id, &container, SIGKILL).await;
    if let Ok(status) = timeout(KILLED, process.death.wait()).await {
        return status;
    }
    warn!(job.id = %id, "the engine does not report the end of a process it killed");
    KILLED_STATUS
}

async fn send(host: &Host, id: JobId, container: &str, signal: u32) {
    if let Err(err) = host.engine.kill(container, signal).await {
        warn!(error = &err as &dyn Error, job.id = %id, "a signal was not delivered");
    }
}

impl Process {
    /// Whether it has a handler for a signal. One that cannot be read has: nothing is known against it.
    fn catches(&self, signal: u32) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        self.pid <= 0 || status.map_or(true, |status| signals::catches(&status, signal))
    }

    async fn until_it_catches(&self, signal: u32) {
        while !self.catches(signal) {
            sleep(HANDLER_INTERVAL).await;
        }
    }
}
