//! The course of a deployment. It has no memory: the next step follows from what is.

mod back;
mod failure;
mod scale;
mod seen;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use api::controller::{Release, Strategy};
use jiff::Timestamp;

pub(crate) use self::{
    failure::{Failure, LINES, last_lines},
    scale::{Change, patched, retarget},
    seen::{Reported, Seen, seen},
};
use crate::store::Counts;

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod tests;

/// A deployment is over only when nobody is sent to what it took away. A host that does not say so in this time is away.
pub(crate) const LINGER: Duration = Duration::from_secs(10);
/// Longest time the new release of a deployment that goes back is kept for the old one to serve again: longer than any
/// start takes.
pub(crate) const GO_BACK: Duration = Duration::from_secs(60);
/// However many steps there are, a deployment is over by then, unless the app lets a single step take longer.
const LONGEST: Duration = Duration::from_hours(24);

/// All that decides what to do next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeployState {
    /// How jobs are replaced.
    pub(crate) strategy: Strategy,
    /// What the new release shall end with.
    pub(crate) target: Counts,
    /// What the old release shall have again, should the new one fail.
    pub(crate) original: Counts,
    /// Whether something else served before: it is what a failure restores.
    pub(crate) has_old: bool,
    /// The release is deployed over itself: a failure takes nothing away.
    pub(crate) over_itself: bool,
    /// It has failed, or was cancelled: it goes back, whatever happens now.
    pub(crate) going_back: bool,
    /// The old release's formation now.
    pub(crate) old: Counts,
    /// The new release's formation now.
    pub(crate) new: Counts,
    /// What jobs do.
    pub(crate) seen: Seen,
    /// Types that run once a host, whatever their count.
    pub(crate) omni: BTreeSet<String>,
    /// Hosts there are; nothing until they are known.
    pub(crate) hosts: Option<u32>,
    /// Jobs a step replaces, in batches.
    pub(crate) batch: u32,
    /// Now, by the database's clock.
    pub(crate) now: Timestamp,
    /// It began at.
    pub(crate) began: Timestamp,
    /// The last step was at.
    pub(crate) step_at: Timestamp,
    /// How long a step may take.
    pub(crate) limit: Duration,
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
    /// Go back from here on.
    Fail(Failure),
    /// The old release serves as before and the new one nothing.
    WentBack,
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

/// Decides what to do next. Taken again and again, it ends: forward while new jobs come to serve, else back.
pub(crate) fn next_step(state: &DeployState) -> Step {
    if state.going_back {
        return state.step_back();
    }
    if let Some(failure) = &state.seen.failure {
        return Step::Fail(failure.clone());
    }
    let step = match state.strategy {
        Strategy::AllAtOnce => all_at_once(state),
        Strategy::OneByOne => by_type(state, |kind| up_then_down(state, kind, 1)),
        Strategy::InBatches => by_type(state, |kind| up_then_down(state, kind, state.batch.max(1))),
        Strategy::OneDownOneUp => by_type(state, |kind| down_then_up(state, kind)),
    };
    let late = state.is_overdue();
    match step {
        Step::Complete if state.old_serves() && state.waited() < LINGER && !late => Step::Wait,
        Step::Complete => Step::Complete,
        _ if late => {
            Step::Fail(Failure::Overdue { job: state.seen.stuck.clone(), bound: state.bound() })
        }
        Step::Wait if state.stalled() >= state.limit => Step::Fail(Failure::TimedOut {
            kinds: state.kinds().into_iter().filter(|kind| !state.serves(kind)).collect(),
            job: state.seen.stuck.clone(),
            limit: state.limit,
        }),
        step => step,
    }
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

    /// Whether all that is asked for of the new release serves. What runs on every host does not before hosts are known.
    fn serves(&self, kind: &str) -> bool {
        let asked = of(&self.new, kind);
        if !self.omni.contains(kind) || asked == 0 {
            return of(&self.seen.new_up, kind) >= asked;
        }
        self.hosts.is_some_and(|hosts| of(&self.seen.new_up, kind) >= hosts.max(1))
    }

    /// Since the last step.
    fn waited(&self) -> Duration {
        since(self.step_at, self.now)
    }

    /// For how long the new release had its chance: a host that was lost, or did not take a job, begins it anew.
    fn stalled(&self) -> Duration {
        since(self.seen.displaced.map_or(self.step_at, |at| at.max(self.step_at)), self.now)
    }

    /// How long all steps together may take: each process one, and one before and after.
    fn bound(&self) -> Duration {
        let processes =
            |counts: &Counts| counts.values().fold(2u32, |sum, n| sum.saturating_add(*n));
        let steps = processes(&self.target).max(processes(&self.original));
        self.limit.saturating_mul(steps).min(LONGEST.max(self.limit))
    }

    fn is_overdue(&self) -> bool {
        since(self.began, self.now) >= self.bound()
    }

    /// Whether anything of the old release serves.
    fn old_serves(&self) -> bool {
        self.seen.old_up.values().any(|&up| up > 0)
    }

    /// Whether anything of the new release serves.
    fn new_serves(&self) -> bool {
        self.seen.new_up.values().any(|&up| up > 0)
    }

    fn scaled(&self, kind: &str, old: u32, new: u32) -> Step {
        let mut step = (self.old.clone(), self.new.clone());
        step.0.insert(kind.into(), old);
        step.1.insert(kind.into(), new);
        Step::Scale { old: step.0, new: step.1 }
    }
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(then).try_into().unwrap_or_default()
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
        Move::To { old, new: target.min(new.saturating_add(batch)) }
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
    let asked =
        if omni { old.min(1).saturating_mul(state.hosts.unwrap_or(u32::MAX).max(1)) } else { old };
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

/// How many jobs a step replaces, in batches: what the app's meta says, or one a host.
pub(crate) fn batch(app: &api::controller::App, hosts: u32) -> u32 {
    let said = app.meta.get(api::controller::META_BATCH_SIZE).and_then(|size| size.parse().ok());
    said.unwrap_or(hosts).max(1)
}
