//! What to do about each certificate: from what is known and the time, without IO.
//!
//! The router's clock may be wrong by a year, and may be set right at any moment. What is done therefore never hangs on the
//! clock alone: a renewal needs, besides the date in the certificate, that a third of its lifetime passed on the same clock
//! since it was ordered; and a certificate that a route needs is never given up, whatever the date.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use api::certificate::CertificateProblem;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Orders of all routers together within an hour.
pub(crate) const ORDERS_PER_HOUR: usize = 60;
/// Pause after the first failure; it doubles with each.
const FIRST_PAUSE: i64 = 60;
/// Longest pause.
const LAST_PAUSE: i64 = 24 * 3600;
/// Longest pause that an authority may ask for.
const ASKED_PAUSE_MAX: i64 = 7 * 24 * 3600;
/// Within this time orders are counted.
const HOUR: i64 = 3600;
/// By so much a clock may be set back without being taken for another one.
const CLOCK_SLACK: i64 = 60;

/// A certificate that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// Its lifetime, by the authority's clock.
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// When it was stored, by the clock of the router that ordered it.
    pub(crate) issued_at: Timestamp,
}

/// The failures in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attempts {
    /// How many.
    pub(crate) count: u32,
    /// When the last one was.
    pub(crate) last: Timestamp,
    /// When the next one may be.
    pub(crate) next: Timestamp,
    /// Why it failed.
    pub(crate) problem: CertificateProblem,
    /// More of it.
    pub(crate) detail: String,
}

/// What is known of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NameState {
    /// A route needs a certificate for it.
    pub(crate) is_wanted: bool,
    /// The one that is there.
    pub(crate) held: Option<Held>,
    /// What failed since.
    pub(crate) attempts: Option<Attempts>,
    /// One is ordered, and was not fetched yet.
    pub(crate) is_ordered: bool,
}

/// What is done about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// All that is stored is removed: no route needs it.
    Forget,
    /// The order that is under way is brought to its end.
    Finish,
    /// A certificate is ordered.
    Order,
}

/// What is done now, at most `room` of it, and at most `left` of it orders; nothing about names that something is being
/// done about. Names without a certificate come before renewals, and among those what ends first.
pub(crate) fn steps(
    names: &BTreeMap<String, NameState>,
    busy: &BTreeSet<String>,
    now: Timestamp,
    room: usize,
    left: usize,
) -> Vec<(String, Step)> {
    let idle = names.iter().filter(|(name, _)| !busy.contains(*name));
    let due = idle.filter_map(|(name, state)| Some((step(state, jitter(name), now)?, name, state)));
    let mut due: Vec<_> = due.collect();
    due.sort_by_key(|(step, _, state)| (*step, state.held.map(|held| held.not_after)));
    let mut left = left;
    let affordable = due.into_iter().filter(|(step, ..)| {
        let is_affordable = *step != Step::Order || left > 0;
        left -= usize::from(*step == Step::Order && is_affordable);
        is_affordable
    });
    affordable.take(room).map(|(step, name, _)| (name.clone(), step)).collect()
}

/// What is due about a name, if anything is. `jitter` is from 0 to 1, and always the same for a name.
pub(crate) fn step(state: &NameState, jitter: f64, now: Timestamp) -> Option<Step> {
    let is_waiting = state.attempts.as_ref().is_some_and(|attempts| is_waiting(attempts, now));
    if !state.is_wanted {
        return match &state.held {
            _ if state.is_ordered => Some(Step::Forget),
            // A route that comes back finds it.
            Some(held) => (now > held.not_after).then_some(Step::Forget),
            // Who removes a route and makes it again must not hurry what failed.
            None => (state.attempts.is_some() && !is_waiting).then_some(Step::Forget),
        };
    }
    if is_waiting {
        return None;
    }
    if state.is_ordered {
        return Some(Step::Finish);
    }
    let is_due = state.held.is_none_or(|held| is_due(held, jitter, now));
    is_due.then_some(Step::Order)
}

/// Whether a third of a certificate's lifetime is left, or a little more.
fn is_due(held: Held, jitter: f64, now: Timestamp) -> bool {
    let lifetime = seconds(held.not_before, held.not_after).max(0);
    let third = lifetime / 3;
    let rest = third + (lifetime as f64 / 30.0 * jitter) as i64;
    let by_date = seconds(now, held.not_after) <= rest;
    let elapsed = seconds(held.issued_at, now);
    if elapsed < 0 {
        // The clock was set back, or was that of another router: only the date is left to go by.
        return by_date;
    }
    elapsed >= lifetime - rest || (by_date && elapsed >= third)
}

/// Whether a failure is too recent to try again.
fn is_waiting(attempts: &Attempts, now: Timestamp) -> bool {
    // One that lies in the future happened by another clock, and tells nothing about when to go on.
    seconds(attempts.last, now) >= -CLOCK_SLACK && now < attempts.next
}

/// The failures with one more.
pub(crate) fn failed(
    before: Option<&Attempts>,
    (problem, detail): (CertificateProblem, String),
    asked: Option<Duration>,
    jitter: f64,
    now: Timestamp,
) -> Attempts {
    let count = before.map_or(0, |before| before.count).saturating_add(1);
    let pause = FIRST_PAUSE << (count - 1).min(20);
    let pause = pause.min(LAST_PAUSE);
    let pause = pause + (pause as f64 / 10.0 * jitter) as i64;
    let asked = asked.map_or(0, |asked| i64::try_from(asked.as_secs()).unwrap_or(i64::MAX));
    let pause = SignedDuration::from_secs(pause.max(asked.min(ASKED_PAUSE_MAX)));
    let next = now.checked_add(pause).unwrap_or(Timestamp::MAX);
    Attempts { count, last: now, next, problem, detail }
}

/// When orders were made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Spent(Vec<Timestamp>);

impl Spent {
    /// How many may be made now.
    pub(crate) fn left(&self, now: Timestamp) -> usize {
        let recent = self.0.iter().filter(|then| is_within_an_hour(**then, now)).count();
        ORDERS_PER_HOUR.saturating_sub(recent)
    }

    /// With one more, if it may be made.
    pub(crate) fn with(&self, now: Timestamp) -> Option<Self> {
        if self.left(now) == 0 {
            return None;
        }
        let recent = self.0.iter().copied().filter(|then| is_within_an_hour(*then, now));
        Some(Self(recent.chain([now]).collect()))
    }
}

fn is_within_an_hour(then: Timestamp, now: Timestamp) -> bool {
    seconds(then, now).abs() < HOUR
}

/// From 0 to 1, so that what was ordered together is not renewed together.
pub(crate) fn jitter(name: &str) -> f64 {
    use md5::{Digest, Md5};
    let digest = Md5::digest(name);
    f64::from(u16::from_be_bytes([digest[0], digest[1]])) / f64::from(u16::MAX)
}

fn seconds(from: Timestamp, to: Timestamp) -> i64 {
    to.as_second() - from.as_second()
}

#[cfg(test)]
mod tests;
