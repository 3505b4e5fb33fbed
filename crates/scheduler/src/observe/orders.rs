//! Orders that are under way: each host's by itself, so that one that answers slowly holds up no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use api::{cluster::HostState, host::Job, id::JobId};
use jiff::{SignedDuration, Timestamp};

use super::Observed;
use crate::domain::{
    HostView,
    job::{JobView, Phase},
};

/// A host that has had an order for so long gets only what can run nowhere else.
const SLOW_AFTER: SignedDuration = SignedDuration::from_secs(1);

/// After the second order in a row that fell short a host gets the next so much later, and then ever later.
const LATER: SignedDuration = SignedDuration::from_millis(200);

/// Longest pause after an order that fell short.
const LATEST: SignedDuration = SignedDuration::from_secs(3);

/// The orders to all hosts.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Hosts that have one, since when, and whether there was more to order meanwhile.
    under_way: BTreeMap<String, (Timestamp, bool)>,
    /// Jobs to start, until a state was read that holds them if they were taken.
    jobs: BTreeMap<JobId, Ordered>,
    /// Hosts whose last orders fell short.
    paces: BTreeMap<String, Pace>,
}

#[derive(Debug)]
struct Ordered {
    host: String,
    job: JobView,
    answered: bool,
}

/// When a host may have its next order.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Orders in a row that fell short.
    short: u32,
    not_before: Timestamp,
}

/// When to order again after so many orders in a row that fell short; the first time at once, for mostly something has
/// changed between the look and the commit.
fn pause_after(short: u32) -> SignedDuration {
    let later = short.checked_sub(2).map(|doubled| LATER * (1 << doubled.min(8)));
    later.unwrap_or_default().min(LATEST)
}

impl Orders {
    pub(super) fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.jobs.keys().copied()
    }

    /// Forgets what was answered: whatever is read of the cluster from now on holds it.
    pub(super) fn forget_answered(&mut self) {
        self.jobs.retain(|_, ordered| !ordered.answered);
    }

    /// Joins what is ordered of a host to what is known of it.
    pub(super) fn join(&self, id: &str, state: &HostState, view: &mut HostView, now: Timestamp) {
        let slow = |(since, _): &(Timestamp, bool)| now.duration_since(*since) >= SLOW_AFTER;
        view.slow = self.under_way.get(id).is_some_and(slow);
        for (&job, ordered) in self.jobs.iter().filter(|(_, ordered)| ordered.host == id) {
            if view.jobs.get(&job).is_some_and(|known| known.phase != Phase::Ordered) {
                continue;
            }
            if !state.jobs.contains_key(&job) {
                view.room.take(&ordered.job.limits);
            }
            Arc::make_mut(&mut view.jobs).insert(job, ordered.job.clone());
        }
    }
}

impl Observed {
    /// A host is about to be given an order: jobs to start and to stop. Answers whether it may be, or has one already or
    /// fell short a moment ago; then the loop is nudged when its time comes.
    pub fn begin_order(&self, host: &str, start: &[Job], stop: &[JobId], now: Timestamp) -> bool {
        let mut known = self.known();
        let Orders { under_way, jobs, paces } = &mut known.orders;
        if let Some((_, more)) = under_way.get_mut(host) {
            *more = true;
            return false;
        }
        if paces.get(host).is_some_and(|pace| pace.not_before > now) {
            return false;
        }
        under_way.insert(host.into(), (now, false));
        let ordered = |job: &Job| {
            let view = JobView::under_way(job);
            (job.id, Ordered { host: host.into(), job: view, answered: false })
        };
        jobs.extend(start.iter().map(ordered));
        // Before they are told: what their host tells may come before its answer.
        known.stops.extend(stop.iter().map(|&job| (job, now)));
        true
    }

    /// An order was answered, or given up. `short`: it was not carried out as given. Answers after which pause the loop is
    /// to be nudged, if it is.
    pub fn end_order(
        &self,
        host: &str,
        start: &BTreeSet<JobId>,
        short: bool,
        now: Timestamp,
    ) -> Option<SignedDuration> {
        let mut known = self.known();
        let Orders { under_way, jobs, paces } = &mut known.orders;
        for id in start {
            if let Some(ordered) = jobs.get_mut(id) {
                ordered.answered = true;
            }
        }
        let (_, more) = under_way.remove(host)?;
        if !short {
            paces.remove(host);
            return more.then_some(SignedDuration::ZERO);
        }
        let short = paces.get(host).map_or(0, |pace| pace.short).saturating_add(1);
        let pause = pause_after(short);
        paces.insert(host.into(), Pace { short, not_before: now + pause });
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_short_order_is_followed_at_once_and_the_others_ever_later() {
        let pauses: Vec<_> = (1..8).map(pause_after).collect();
        let millis = SignedDuration::from_millis;
        assert_eq!(pauses[..3], [millis(0), millis(200), millis(400)]);
        assert_eq!((pauses[6], pause_after(u32::MAX)), (LATEST, LATEST));
    }

    #[test]
    fn a_host_has_one_order_at_a_time_and_the_next_in_its_time() {
        let observed = Observed::default();
        let at = |millis| Timestamp::UNIX_EPOCH + SignedDuration::from_millis(millis);
        let none = BTreeSet::new();
        assert!(observed.begin_order("a", &[], &[], at(0)));
        assert!(!observed.begin_order("a", &[], &[], at(1)), "it has one");
        assert!(observed.begin_order("b", &[], &[], at(1)), "the others are not held up");
        let nudge = observed.end_order("a", &none, false, at(2));
        assert_eq!(nudge, Some(SignedDuration::ZERO), "there was more to order");
        assert_eq!(observed.end_order("b", &none, false, at(2)), None);
        for millis in [3, 4] {
            assert!(observed.begin_order("a", &[], &[], at(millis)));
            observed.end_order("a", &none, true, at(millis));
        }
        assert!(!observed.begin_order("a", &[], &[], at(5)));
        assert!(observed.begin_order("a", &[], &[], at(204)));
    }
}
