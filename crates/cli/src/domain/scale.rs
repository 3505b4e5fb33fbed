//! Scaling: what was asked for, and how far it is.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    controller::{Job, JobState, Release, Tags},
    id::{JobId, ReleaseId},
};

use super::suggest::nearest;

mod asked;
pub(crate) use asked::Asked;

/// A type whose new jobs crashed this often will not come up by waiting.
const HOPELESS: usize = 3;

/// Counts by process type.
pub(crate) type Counts = BTreeMap<String, u32>;

/// What was typed cannot be done.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum ScaleError {
    #[error("{0:?} is not of the form TYPE=COUNT[,TAG=VALUE], like web=2 or web=2,disk=ssd")]
    NotACount(String),
    #[error("{0} has two counts; say one")]
    Twice(String),
    #[error(
        "the release has no process type {kind:?}{}; it has: {known}",
        nearest.as_ref().map(|name| format!(", did you mean {name:?}?")).unwrap_or_default()
    )]
    NoSuchType { kind: String, nearest: Option<String>, known: String },
}

/// Checks that every type is one of the release's, or one that shall run already: during a deployment, of the new release.
pub(crate) fn check(now: &Counts, asked: &Counts, release: &Release) -> Result<(), ScaleError> {
    let known: BTreeSet<&str> =
        release.processes.keys().chain(now.keys()).map(String::as_str).collect();
    let Some(kind) = asked.keys().find(|kind| !known.contains(kind.as_str())) else {
        return Ok(());
    };
    let names: Vec<&str> = known.iter().copied().collect();
    Err(ScaleError::NoSuchType {
        kind: kind.clone(),
        nearest: nearest(kind, known.iter().copied()).map(str::to_owned),
        known: if names.is_empty() { "none".into() } else { names.join(", ") },
    })
}

/// The counts, with a 0 for the release's other types.
pub(crate) fn of_all_types(counts: &Counts, release: &Release) -> Counts {
    let mut all: Counts = release.processes.keys().map(|kind| (kind.clone(), 0)).collect();
    all.extend(counts.clone());
    all
}

/// `web=2,disk=ssd worker=0`, with every type of the release.
pub(crate) fn shown(counts: &Counts, tags: &Tags, release: &Release) -> String {
    let kinds: BTreeSet<&String> =
        release.processes.keys().chain(counts.keys()).chain(tags.keys()).collect();
    let one = |kind: &&String| {
        let tags = tags.get(*kind).into_iter().flatten();
        let tags: String = tags.map(|(name, value)| format!(",{name}={value}")).collect();
        format!("{kind}={}{tags}", counts.get(*kind).unwrap_or(&0))
    };
    kinds.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Where a wait for a formation is.
#[derive(Debug)]
pub(crate) struct Wait {
    release: Option<ReleaseId>,
    wanted: Counts,
    at_least: BTreeSet<String>,
    known: BTreeMap<JobId, (JobState, Option<String>)>,
    crashes: BTreeMap<String, (usize, String)>,
}

/// What a look at the jobs shows.
#[derive(Debug, PartialEq)]
pub(crate) enum Standing {
    /// As many serve as shall.
    Done,
    /// Not yet: `web: 3 of 8 serve`.
    Going(String),
    /// It will not happen by itself: why.
    Hopeless(String),
}

impl Wait {
    /// Waits for `wanted`, of the types named; for jobs of one release, or of any. `before` are the jobs there were.
    pub(crate) fn new(
        release: Option<ReleaseId>,
        wanted: Counts,
        types: &Release,
        before: &[Job],
    ) -> Self {
        let omni = |(kind, _): &(&String, _)| types.processes.get(*kind).is_some_and(|p| p.omni);
        let at_least = wanted.iter().filter(omni).map(|(kind, _)| kind.clone()).collect();
        let known = before.iter().map(|job| (job.uuid, standing_of(job))).collect();
        Self { release, wanted, at_least, known, crashes: BTreeMap::new() }
    }

    /// Takes a look: lines to print for what changed, and where we are.
    pub(crate) fn look(&mut self, jobs: &[Job]) -> (Vec<String>, Standing) {
        let ours = |job: &&Job| {
            self.wanted.contains_key(&job.kind)
                && self.release.is_none_or(|release| job.release == release)
        };
        let mut jobs: Vec<&Job> = jobs.iter().filter(ours).collect();
        jobs.sort_by_key(|job| (job.created_at, job.uuid));
        let mut lines = Vec::new();
        for job in &jobs {
            let now = standing_of(job);
            if self.known.insert(job.uuid, now.clone()) == Some(now) {
                continue;
            }
            lines.push(change(job));
            if job.state == JobState::Crashed {
                let crash = self.crashes.entry(job.kind.clone()).or_default();
                crash.0 += 1;
                crash.1 = reason(job);
            }
        }
        let standing = self.standing(&jobs);
        (lines, standing)
    }

    fn standing(&self, jobs: &[&Job]) -> Standing {
        let count = |kind: &str, states: &[JobState]| {
            let matching = jobs.iter().filter(|j| j.kind == kind && states.contains(&j.state));
            u32::try_from(matching.count()).unwrap_or(u32::MAX)
        };
        let mut going = Vec::new();
        for (kind, &wanted) in &self.wanted {
            let up = count(kind, &[JobState::Up]);
            let more = count(kind, &[JobState::Pending, JobState::Starting]);
            let enough = if self.at_least.contains(kind) {
                up >= wanted && more == 0
            } else {
                up == wanted && more == 0
            };
            if enough {
                continue;
            }
            if let Some((times, why)) = self.crashes.get(kind).filter(|(n, _)| *n >= HOPELESS) {
                let text =
                    format!("{kind} does not stay up: it crashed {times} times, last: {why}");
                return Standing::Hopeless(text);
            }
            let last = self.crashes.get(kind).map(|(_, why)| format!("; last crash: {why}"));
            let waits = |j: &&&Job| {
                j.kind == *kind && matches!(j.state, JobState::Pending | JobState::Starting)
            };
            let waits = jobs.iter().filter(waits).find_map(|j| j.host_error.as_ref());
            let waits = waits.map(|why| format!("; {why}"));
            let why = last.or(waits).unwrap_or_default();
            going.push(format!("{kind}: {up} of {wanted} serve{why}"));
        }
        if going.is_empty() { Standing::Done } else { Standing::Going(going.join(", ")) }
    }
}

/// `web  host-0123…  up`, and why if it is not.
pub(crate) fn change(job: &Job) -> String {
    let why = match job.state {
        JobState::Crashed => format!(": {}", reason(job)),
        JobState::Pending | JobState::Starting => {
            job.host_error.as_ref().map(|e| format!(": {e}")).unwrap_or_default()
        }
        _ => String::new(),
    };
    let kind = super::jobs::kind_shown(&job.kind);
    super::table::plain(&format!("{kind}  {}  {}{why}", job.id, super::jobs::state(job.state)))
}

/// What a line is printed for when it changes: the state, and why a job that starts is not up.
fn standing_of(job: &Job) -> (JobState, Option<String>) {
    let waits = matches!(job.state, JobState::Pending | JobState::Starting);
    (job.state, job.host_error.clone().filter(|_| waits))
}

fn reason(job: &Job) -> String {
    match (&job.host_error, job.exit_status) {
        (Some(error), _) => error.clone(),
        (None, Some(status)) => format!("it exited with status {status}"),
        (None, None) => "it ended; `flynn log` shows what it said".into(),
    }
}

#[cfg(test)]
mod tests;
