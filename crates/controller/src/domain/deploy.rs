//! The course of a deployment. It has no memory: the next step follows from what is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use api::controller::{Job, JobState, Release, Strategy};

use crate::store::Counts;

#[cfg(test)]
mod tests;

/// New jobs that may crash before the deployment fails.
const CRASHES: u32 = 3;

/// A deployment is over only when nobody is sent to what it took away. A host that does not say so in this time is away.
pub(crate) const LINGER: Duration = Duration::from_secs(10);

/// With these words a host says that a process runs but never passed its check.
const NOT_PASSED: &str = "did not pass its check";

/// All that decides what to do next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeployState {
    /// How jobs are replaced.
    pub(crate) strategy: Strategy,
    /// What the new release shall end with.
    pub(crate) target: Counts,
    /// The old release's formation now.
    pub(crate) old: Counts,
    /// The new release's formation now.
    pub(crate) new: Counts,
    /// What jobs do.
    pub(crate) seen: Seen,
    /// Types that run once a host, whatever their count.
    pub(crate) omni: BTreeSet<String>,
    /// Hosts there are.
    pub(crate) hosts: u32,
    /// Jobs a step replaces, in batches.
    pub(crate) batch: u32,
    /// Since the last step.
    pub(crate) waited: Duration,
    /// How long a step may take.
    pub(crate) limit: Duration,
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
    /// A job of the new release that does not serve yet; one that says why, if there is one.
    pub(crate) stuck: Option<Box<Job>>,
    /// The new release fails.
    pub(crate) failure: Option<Failure>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Nothing until something changes.
    Wait,
    /// Set the formations.
    Scale {
        /// Of the old release.
        old: Counts,
        /// Of the new release.
        new: Counts,
    },
    /// The new release serves all that is wanted and the old one nothing.
    Complete,
    /// Go back.
    Fail(Failure),
}

/// Why a deployment fails.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Failure {
    /// Jobs ended again and again.
    Crashed {
        /// The last of them.
        job: Box<Job>,
        /// How many.
        times: u32,
    },
    /// A job could not be started, or never passed its check.
    NeverServed(Box<Job>),
    /// A step took too long.
    TimedOut {
        /// Types that were waited for.
        kinds: Vec<String>,
        /// A job that does not serve, if there is one.
        job: Option<Box<Job>>,
        /// How long.
        limit: Duration,
    },
}

/// What shall run of the new release when its deployment begins: what runs of the old one, type by type. `web` runs once
/// if nothing was said of it so far.
pub(crate) fn target(
    old: Option<&Release>,
    old_formation: &Counts,
    new: &Release,
    new_formation: &Counts,
) -> Counts {
    let count = |kind: &String| {
        let said = old_formation.get(kind).or_else(|| new_formation.get(kind)).copied();
        let known = old.is_some_and(|old| old.processes.contains_key(kind));
        said.unwrap_or(u32::from(kind == "web" && !known))
    };
    let counts = new.processes.keys().map(|kind| (kind.clone(), count(kind)));
    counts.filter(|(_, count)| *count > 0).collect()
}

/// Reads the jobs' rows. `stopped` jobs of the new release were told to stop, so that many may be down.
pub(crate) fn seen(jobs: &[Job], old: Option<&Release>, new: &Release, stopped: u32) -> Seen {
    let mut seen = Seen::default();
    let mut ended: Vec<&Job> = Vec::new();
    let mut down = 0;
    for job in jobs {
        if old.is_some_and(|old| old.id == job.release) {
            let alive = matches!(job.state, JobState::Starting | JobState::Up | JobState::Stopping);
            *seen.old_alive.entry(job.kind.clone()).or_default() += u32::from(alive);
            let up = job.state == JobState::Up;
            *seen.old_up.entry(job.kind.clone()).or_default() += u32::from(up);
        } else if job.release == new.id {
            match job.state {
                JobState::Up => *seen.new_up.entry(job.kind.clone()).or_default() += 1,
                JobState::Crashed => ended.push(job),
                // One that only waited was never anywhere.
                JobState::Down if job.host_id.is_none() => {}
                // A job that says it is done when it should serve has failed too.
                JobState::Down if down < stopped => down += 1,
                JobState::Down => ended.push(job),
                JobState::Pending | JobState::Starting | JobState::Stopping => {}
            }
        }
    }
    let waits = |job: &&Job| {
        job.release == new.id && matches!(job.state, JobState::Pending | JobState::Starting)
    };
    let stuck = jobs.iter().filter(waits).max_by_key(|job| job.host_error.is_some());
    seen.stuck = stuck.cloned().map(Box::new);
    seen.failure = failure(&ended, jobs, new);
    seen
}

fn failure(ended: &[&Job], jobs: &[Job], new: &Release) -> Option<Failure> {
    let refused = |job: &&&Job| {
        let error = job.host_error.as_deref();
        error.is_some_and(|error| job.exit_status.is_none() || error.contains(NOT_PASSED))
    };
    if let Some(job) = ended.iter().find(refused) {
        return Some(Failure::NeverServed(Box::new((**job).clone())));
    }
    let last = ended.iter().copied().max_by_key(|job| job.updated_at);
    // A host that restarts a job by itself counts in the job's row; so does the job that waits for its next try, which
    // has said nothing yet.
    let again = |job: &&Job| job.release == new.id && job.restarts >= CRASHES;
    if let Some(job) = jobs.iter().find(again) {
        let told = last.unwrap_or(job);
        return Some(Failure::Crashed { job: Box::new(told.clone()), times: job.restarts });
    }
    let times = u32::try_from(ended.len()).unwrap_or(u32::MAX);
    let last = last.filter(|_| times >= CRASHES)?;
    Some(Failure::Crashed { job: Box::new(last.clone()), times })
}

/// Decides what to do next. Taken again and again, while new jobs come to serve, it ends.
pub(crate) fn next_step(state: &DeployState) -> Step {
    if let Some(failure) = &state.seen.failure {
        return Step::Fail(failure.clone());
    }
    let step = match state.strategy {
        Strategy::AllAtOnce => all_at_once(state),
        Strategy::OneByOne => by_type(state, |kind| up_then_down(state, kind, 1)),
        Strategy::InBatches => by_type(state, |kind| up_then_down(state, kind, state.batch.max(1))),
        Strategy::OneDownOneUp => by_type(state, |kind| down_then_up(state, kind)),
    };
    if step == Step::Wait && state.waited >= state.limit {
        let kinds = state.kinds().into_iter().filter(|kind| !state.serves(kind)).collect();
        return Step::Fail(Failure::TimedOut {
            kinds,
            job: state.seen.stuck.clone(),
            limit: state.limit,
        });
    }
    if step == Step::Complete && state.old_serves() && state.waited < LINGER {
        return Step::Wait;
    }
    step
}

/// What to do about one type.
enum Move {
    Done,
    Wait,
    To { old: u32, new: u32 },
}

impl DeployState {
    /// Every type of either release, those that shall run first, each group by name.
    fn kinds(&self) -> Vec<String> {
        let kinds: BTreeSet<&String> =
            self.target.keys().chain(self.old.keys()).chain(self.new.keys()).collect();
        let mut kinds: Vec<String> = kinds.into_iter().cloned().collect();
        kinds.sort_by_key(|kind| self.target(kind) == 0);
        kinds
    }

    fn target(&self, kind: &str) -> u32 {
        of(&self.target, kind)
    }

    /// Whether all that is asked for of the new release serves.
    fn serves(&self, kind: &str) -> bool {
        let asked = of(&self.new, kind);
        let needed =
            if self.omni.contains(kind) { asked.min(1) * self.hosts.max(1) } else { asked };
        of(&self.seen.new_up, kind) >= needed
    }

    /// Whether anything of the old release serves.
    fn old_serves(&self) -> bool {
        self.seen.old_up.values().any(|&up| up > 0)
    }

    /// Whether anything of the new release serves.
    pub(crate) fn new_serves(&self) -> bool {
        self.seen.new_up.values().any(|&up| up > 0)
    }

    /// Whether the new release may be taken away: the old one serves again all it did, or cannot while the new one runs.
    pub(crate) fn went_back(&self, original: &Counts) -> bool {
        let serves = |(kind, &count): (&String, &u32)| {
            let needed = if self.omni.contains(kind) { count.min(1) } else { count };
            of(&self.seen.old_up, kind) >= needed
        };
        self.strategy == Strategy::OneDownOneUp || original.iter().all(serves)
    }

    fn scaled(&self, kind: &str, old: u32, new: u32) -> Step {
        let mut step = (self.old.clone(), self.new.clone());
        step.0.insert(kind.into(), old);
        step.1.insert(kind.into(), new);
        Step::Scale { old: step.0, new: step.1 }
    }
}

fn of(counts: &Counts, kind: &str) -> u32 {
    counts.get(kind).copied().unwrap_or_default()
}

fn by_type(state: &DeployState, decide: impl Fn(&str) -> Move) -> Step {
    for kind in state.kinds() {
        match decide(&kind) {
            Move::Done => {}
            Move::Wait => return Step::Wait,
            Move::To { old, new } => return state.scaled(&kind, old, new),
        }
    }
    Step::Complete
}

/// Never fewer than the target: what comes serves before what it replaces goes.
fn up_then_down(state: &DeployState, kind: &str, batch: u32) -> Move {
    let (old, new, target) = (of(&state.old, kind), of(&state.new, kind), state.target(kind));
    if new > target {
        return Move::To { old, new: target };
    }
    if !state.serves(kind) {
        return Move::Wait;
    }
    if state.omni.contains(kind) {
        return match (old, new) {
            _ if new < target => Move::To { old, new: target },
            (0, _) => Move::Done,
            _ => Move::To { old: 0, new },
        };
    }
    if old > target - new {
        Move::To { old: target - new, new }
    } else if new < target {
        Move::To { old, new: target.min(new + batch) }
    } else {
        Move::Done
    }
}

/// Never more than before: what holds a port of its host goes, and has gone, before its successor comes.
fn down_then_up(state: &DeployState, kind: &str) -> Move {
    let (old, new, target) = (of(&state.old, kind), of(&state.new, kind), state.target(kind));
    let omni = state.omni.contains(kind);
    if new > target {
        return Move::To { old, new: target };
    }
    let asked = if omni { old.min(1) * state.hosts.max(1) } else { old };
    if of(&state.seen.old_alive, kind) > asked || !state.serves(kind) {
        return Move::Wait;
    }
    if old > 0 && (omni || old + new >= target) {
        Move::To { old: if omni { 0 } else { old - 1 }, new }
    } else if new < target {
        Move::To { old, new: if omni { target } else { new + 1 } }
    } else {
        Move::Done
    }
}

fn all_at_once(state: &DeployState) -> Step {
    let kinds = state.kinds();
    if kinds.iter().any(|kind| of(&state.new, kind) != state.target(kind)) {
        return Step::Scale { old: state.old.clone(), new: state.target.clone() };
    }
    if !kinds.iter().all(|kind| state.serves(kind)) {
        return Step::Wait;
    }
    if state.old.values().any(|&count| count > 0) {
        return Step::Scale { old: BTreeMap::new(), new: state.new.clone() };
    }
    Step::Complete
}

impl Failure {
    /// The job whose log says more.
    pub(crate) fn job(&self) -> Option<&Job> {
        match self {
            Self::Crashed { job, .. } | Self::NeverServed(job) => Some(job),
            Self::TimedOut { job, .. } => job.as_deref(),
        }
    }

    /// The sentence for the developer, with the job's last log lines.
    pub(crate) fn sentence(&self, old_serves: bool, log: &[String]) -> String {
        let mut text = match self {
            Self::Crashed { job, times } => {
                format!("the new {} process ended {times} times{}", job.kind, because(job))
            }
            Self::NeverServed(job) => {
                format!("the new {} process did not come to serve{}", job.kind, because(job))
            }
            Self::TimedOut { kinds, job, limit } => format!(
                "the new {} process did not serve within {} s{}",
                kinds.join(" and "),
                limit.as_secs(),
                job.as_deref().map(because).unwrap_or_default()
            ),
        };
        text +=
            if old_serves { "; the old release keeps serving" } else { "; nothing was changed" };
        if !log.is_empty() {
            text += &format!(". Its last log lines:\n{}", log.join("\n"));
        }
        text
    }
}

fn because(job: &Job) -> String {
    match (&job.host_error, job.exit_status) {
        (Some(error), _) => format!(": {error}"),
        (None, Some(status)) => format!(": it exited with status {status}"),
        (None, None) => String::new(),
    }
}

/// How many jobs a step replaces, in batches: what the app's meta says, or one a host.
pub(crate) fn batch(app: &api::controller::App, hosts: u32) -> u32 {
    let said = app.meta.get("flynn-deploy-batch-size").and_then(|size| size.parse().ok());
    said.unwrap_or(hosts).max(1)
}
