//! Taking a host out of the cluster by force: what runs on it is stopped first, for nobody reaches it any more afterwards,
//! and what it runs is started elsewhere.

use std::{collections::BTreeMap, time::Duration};

use api::{
    cluster::TAG_DRAINING,
    host::{ActiveJob, Status},
    id::JobId,
};
use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// A host that says nothing for so long is taken out as one that is lost.
const SILENCE: Duration = Duration::from_secs(60);
/// What takes longer to stop is left: longer than most stop timeouts.
const STOPPING: Duration = Duration::from_secs(150);
/// Longest time for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Stops everything on a host and waits until it has ended. Answers how many jobs are left, `None` if the host was silent.
pub(crate) async fn stop_everything(host: &host_client::Host) -> Option<usize> {
    let begun = Instant::now();
    let mut heard = begun;
    let mut left = None;
    while heard.elapsed() < SILENCE && begun.elapsed() < STOPPING {
        if let Some(jobs) = round(host).await {
            heard = Instant::now();
            left = Some(jobs);
            if jobs == 0 {
                break;
            }
        }
        sleep(PAUSE).await;
    }
    match left {
        Some(0) => info!("everything on the host has ended"),
        left => warn!(?left, "the host goes without having ended all it runs"),
    }
    left
}

/// Nothing new is placed there, and all that runs is told to stop. Answers what has not ended yet.
async fn round(host: &host_client::Host) -> Option<usize> {
    let tags = BTreeMap::from([(TAG_DRAINING.to_owned(), Timestamp::now().to_string())]);
    timeout(ANSWER, host.set_tags(&tags)).await.ok()?.ok()?;
    let jobs = timeout(ANSWER, host.jobs()).await.ok()?.ok()?;
    for id in to_stop(&jobs) {
        timeout(ANSWER, host.stop_job(id)).await.ok()?.ok()?;
    }
    Some(jobs.values().filter(|job| job.status.is_active()).count())
}

/// Those that run and were not told yet: also what its host keeps alive by itself.
fn to_stop(jobs: &BTreeMap<JobId, ActiveJob>) -> Vec<JobId> {
    let runs = |job: &&ActiveJob| job.status.is_active() && job.status != Status::Stopping;
    jobs.values().filter(runs).map(|job| job.job.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_runs_is_told_once_also_what_its_host_keeps_alive() {
        let job = |status, resurrect| {
            let id = JobId::random();
            let job = serde_json::json!({
                "host_id": "h", "status": status, "created_at": Timestamp::UNIX_EPOCH,
                "job": { "id": id, "image": "i", "resurrect": resurrect },
            });
            (id, serde_json::from_value::<ActiveJob>(job).unwrap())
        };
        let (running, kept) = (job(Status::Running, false), job(Status::Starting, true));
        let rest = [Status::Stopping, Status::Done, Status::Crashed, Status::Failed];
        let all: BTreeMap<_, _> = rest
            .map(|status| job(status, false))
            .into_iter()
            .chain([running.clone(), kept.clone()])
            .collect();
        let told: std::collections::BTreeSet<JobId> = to_stop(&all).into_iter().collect();
        assert_eq!(told, [running.0, kept.0].into());
    }
}
