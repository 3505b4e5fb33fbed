//! What the jobs' rows say to a deployment.

use std::collections::BTreeMap;

use api::{
    controller::{Job, JobState, Release},
    host::EndReason,
};
use jiff::Timestamp;

use super::Failure;
use crate::store::Counts;

/// Endings of a type's new jobs after which a deployment fails; of many processes a tenth may end besides.
const ENDINGS: u32 = 3;

/// A job's row with what is known of its past.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reported {
    /// The job as it was told of last.
    pub(crate) job: Job,
    /// When it was first told of.
    pub(crate) since: Timestamp,
    /// How often it had been started again by then.
    pub(crate) first_restarts: u32,
}

/// What jobs of both releases do.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Seen {
    /// Jobs of the new release that serve.
    pub(crate) new_up: Counts,
    /// Jobs of the old release that have not ended.
    pub(crate) old_alive: Counts,
    /// Those of them that serve.
    pub(crate) old_up: Counts,
    /// A job of the new release that does not serve; one that says why, if there is one.
    pub(crate) stuck: Option<Box<Job>>,
    /// When a job of the new release last ended because of the place it was put.
    pub(crate) displaced: Option<Timestamp>,
    /// The new release fails.
    pub(crate) failure: Option<Failure>,
}

/// Reads the jobs' rows. `began`: endings of jobs heard of before are not this deployment's. `stopped` jobs of the new
/// release were told to stop, so that many may be down. `target` says how many of a type may be wanted.
pub(crate) fn seen(
    jobs: &[Reported],
    (old, new): (Option<&Release>, &Release),
    began: Timestamp,
    stopped: u32,
    target: &Counts,
) -> Seen {
    let mut seen = Seen::default();
    let mut waits: Vec<&Job> = Vec::new();
    let mut ended: Vec<&Reported> = Vec::new();
    for reported in jobs {
        let job = &reported.job;
        if old.is_some_and(|old| old.id == job.release) {
            let alive = matches!(job.state, JobState::Starting | JobState::Up | JobState::Stopping);
            *seen.old_alive.entry(job.kind.clone()).or_default() += u32::from(alive);
            let up = job.state == JobState::Up;
            *seen.old_up.entry(job.kind.clone()).or_default() += u32::from(up);
        } else if job.release == new.id {
            if job.state == JobState::Up {
                *seen.new_up.entry(job.kind.clone()).or_default() += 1;
            }
            if matches!(job.state, JobState::Pending | JobState::Starting) {
                waits.push(job);
            }
            // What was heard of before the deployment began is an earlier one's; what never had a host only waited.
            if reported.since >= began && job.host_id.is_some() {
                ended.push(reported);
            }
        }
    }
    let away = ended.iter().filter(|ended| is_displaced(&ended.job));
    seen.displaced = away.filter_map(|ended| ended.job.updated_at).max();
    let stuck = waits.into_iter().max_by_key(|job| job.host_error.is_some());
    let explained = |job: &&Job| job.state == JobState::Crashed && job.host_error.is_some();
    let last =
        ended.iter().map(|ended| &ended.job).filter(explained).max_by_key(|job| job.updated_at);
    let says = stuck.filter(|job| job.host_error.is_some()).or(last).or(stuck);
    seen.stuck = says.cloned().map(Box::new);
    seen.failure = failure(&ended, stopped, target);
    seen
}

/// Whether a job ended because of the place it was put: its host is gone, or did not take it.
fn is_displaced(job: &Job) -> bool {
    job.state.is_over() && matches!(job.end_reason, Some(EndReason::HostLost | EndReason::Refused))
}

/// How often a job ended by its own fault since it was first heard of.
fn endings(reported: &Reported) -> u32 {
    let job = &reported.job;
    let blamed = match job.end_reason {
        Some(reason) => reason.blames_release(),
        // A host of the version before does not say; what has an exit status ran.
        None => !job.state.is_over() || job.exit_status.is_some() || job.state == JobState::Down,
    };
    // A host that restarts a job by itself counts in the job's row.
    let restarts = job.restarts.saturating_sub(reported.first_restarts);
    if blamed { restarts.saturating_add(u32::from(job.state.is_over())) } else { 0 }
}

fn failure(jobs: &[&Reported], stopped: u32, target: &Counts) -> Option<Failure> {
    let deaf = |job: &&&Reported| {
        job.job.state == JobState::Crashed
            && job.job.end_reason == Some(EndReason::CheckNeverPassed)
    };
    if let Some(reported) = jobs.iter().find(deaf) {
        return Some(Failure::NeverServed(Box::new(reported.job.clone())));
    }
    let mut allowed = stopped;
    let mut by_kind: BTreeMap<&str, (u32, &Job)> = BTreeMap::new();
    for reported in jobs {
        let (job, times) = (&reported.job, endings(reported));
        // A job that says it is done when it should serve has failed too, unless it was told to stop.
        if times == 0 || (job.state == JobState::Down && allowed > 0) {
            allowed -= u32::from(times > 0);
            continue;
        }
        let of_kind = by_kind.entry(&job.kind).or_insert((0, job));
        of_kind.0 = of_kind.0.saturating_add(times);
        if job.updated_at >= of_kind.1.updated_at {
            of_kind.1 = job;
        }
    }
    let most = |kind: &str| ENDINGS + target.get(kind).copied().unwrap_or_default() / 10;
    let (_, (times, job)) = by_kind.into_iter().find(|(kind, (times, _))| *times >= most(kind))?;
    Some(Failure::Crashed { job: Box::new(job.clone()), times })
}
