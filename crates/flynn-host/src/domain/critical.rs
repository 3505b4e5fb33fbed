//! When the leading host starts a controller or a scheduler itself, and where: without them nobody else would.

use std::{cmp::Reverse, time::Duration};

use api::{cluster::State, host::Limits, id::JobId};
use sampi::Room;
use tokio::time::Instant;

/// The services without which nothing is scheduled any more.
pub(crate) const SERVICES: [&str; 2] = ["controller", "controller-scheduler"];

/// Metadata: the service a job was started for by the leading host. Whoever schedules again adopts it as any other.
pub(crate) const META_STAND_IN: &str = "flynn-host.stand-in";

/// How long a service must have had no instance.
const ABSENCE: Duration = Duration::from_secs(15);

/// How long what was started may take to become an instance before another is started in its place.
const PATIENCE: Duration = Duration::from_secs(60);

/// What discoverd says of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// It has an instance.
    There,
    /// It has none.
    Absent,
    /// That cannot be said at the moment.
    Unknown,
}

/// How long a service has been missed, by one leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Vigil {
    absent_since: Option<Instant>,
    started: Option<Instant>,
    /// How many were started since it was there last.
    attempts: usize,
}

impl Vigil {
    /// Takes what is seen. Answers the number of the attempt if it is time for one.
    pub(crate) fn look(&mut self, sight: Sight, now: Instant) -> Option<usize> {
        match sight {
            Sight::There => *self = Self::default(),
            // Nobody is started on a guess, nor is what was started forgotten.
            Sight::Unknown => self.absent_since = None,
            Sight::Absent => {
                let absent = now.duration_since(*self.absent_since.get_or_insert(now));
                let waits =
                    self.started.is_some_and(|started| now.duration_since(started) < PATIENCE);
                if absent >= ABSENCE && !waits {
                    self.started = Some(now);
                    self.attempts += 1;
                    return Some(self.attempts - 1);
                }
            }
        }
        None
    }

    /// The attempt came to nothing: the next follows as an absence that is seen from now on.
    pub(crate) fn failed(&mut self, now: Instant) {
        (self.absent_since, self.started) = (Some(now), None);
    }
}

/// The host for an attempt: of those with room the one with the most memory free, and another each time, for the first may
/// be what is wrong. One that is being emptied comes last.
pub(crate) fn place<'a>(state: &'a State, limits: &Limits, attempt: usize) -> Option<&'a str> {
    let with_room = state.hosts.iter().filter_map(|(id, host)| {
        let room = Room::of(host);
        let rank = (host.is_draining(), Reverse(room.memory), id.as_str());
        room.fits(limits).then_some(rank)
    });
    let mut ranked: Vec<_> = with_room.collect();
    ranked.sort_unstable();
    let (_, _, id) = ranked.get(attempt.checked_rem(ranked.len())?)?;
    Some(id)
}

/// What was started for a service before, and did not become an instance of it.
pub(crate) fn stand_ins<'a>(
    state: &'a State,
    service: &'a str,
) -> impl Iterator<Item = (&'a str, JobId)> {
    let jobs = state.hosts.iter().flat_map(|(id, host)| {
        host.jobs.iter().map(move |(job, placed)| (id.as_str(), *job, placed))
    });
    jobs.filter(move |(_, _, placed)| {
        placed.metadata.get(META_STAND_IN).is_some_and(|of| of == service)
    })
    .map(|(id, job, _)| (id, job))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use api::cluster::{Capacity, HostState, Placed, TAG_DRAINING};
    use proptest::prelude::*;

    use super::*;

    fn sights() -> impl Strategy<Value = Vec<(Sight, u64, bool)>> {
        let sight = prop_oneof![
            1 => Just(Sight::There),
            6 => Just(Sight::Absent),
            1 => Just(Sight::Unknown),
        ];
        prop::collection::vec((sight, 0..20_000_u64, any::<bool>()), 0..60)
    }

    proptest! {
        #[test]
        fn an_attempt_follows_an_absence_seen_without_a_gap_and_none_is_hurried(looks in sights()) {
            let (mut vigil, mut now) = (Vigil::default(), Instant::now());
            let (mut absent_since, mut last, mut expected) = (None, None, 0);
            for (sight, millis, fails) in looks {
                now += Duration::from_millis(millis);
                match sight {
                    Sight::There => (absent_since, last, expected) = (None, None, 0),
                    Sight::Unknown => absent_since = None,
                    Sight::Absent => _ = absent_since.get_or_insert(now),
                }
                let long = absent_since.is_some_and(|since| now - since >= ABSENCE);
                let calm = last.is_none_or(|last| now - last >= PATIENCE);
                let attempt = vigil.look(sight, now);
                prop_assert_eq!(attempt, (long && calm).then_some(expected));
                if attempt.is_some() {
                    (last, expected) = (Some(now), expected + 1);
                    if fails {
                        vigil.failed(now);
                        (last, absent_since) = (None, Some(now));
                    }
                }
            }
        }

        #[test]
        fn every_host_with_room_gets_its_turn_and_no_other(
            hosts in prop::collection::btree_map("[a-e]", (0..10_u64, any::<bool>()), 0..5),
            wanted in 0..10_u64,
        ) {
            let state = state(hosts.iter().map(|(id, &(memory, draining))| (id.as_str(), memory, draining)));
            let limits = Limits { memory: wanted, cpu: 0, ..Limits::default() };
            let fitting: Vec<_> = hosts.iter().filter(|(_, (memory, _))| *memory >= wanted).collect();
            let mut chosen: Vec<_> =
                (0..fitting.len()).map(|n| place(&state, &limits, n).unwrap()).collect();
            prop_assert_eq!(place(&state, &limits, fitting.len()), chosen.first().copied());
            let draining: Vec<bool> = chosen.iter().map(|id| hosts[*id].1).collect();
            prop_assert!(draining.is_sorted(), "those that are emptied come last");
            chosen.sort_unstable();
            prop_assert_eq!(chosen, fitting.into_iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>());
        }
    }

    fn state<'a>(hosts: impl Iterator<Item = (&'a str, u64, bool)>) -> State {
        let hosts = hosts.map(|(id, memory, draining)| {
            let tags = draining.then(|| (TAG_DRAINING.into(), String::new())).into_iter().collect();
            let capacity = Capacity { memory, cpu: 1, addresses: 9 };
            let (addr, jobs) = (String::new(), BTreeMap::new());
            (id.into(), Arc::new(HostState { version: 1, addr, tags, capacity, jobs }))
        });
        State { hosts: hosts.collect(), ..State::default() }
    }

    #[test]
    fn only_what_was_started_for_the_service_is_replaced() {
        let mut state = state([("a", 9, false)].into_iter());
        let stand_in = |service: &str| Placed {
            metadata: [(META_STAND_IN.into(), service.into())].into(),
            limits: Limits::default(),
        };
        let (ours, other) = (JobId::random(), JobId::random());
        let host = Arc::make_mut(state.hosts.get_mut("a").unwrap());
        host.jobs.insert(ours, stand_in("controller"));
        host.jobs.insert(other, stand_in("controller-scheduler"));
        host.jobs.insert(
            JobId::random(),
            Placed { metadata: BTreeMap::new(), limits: Limits::default() },
        );
        assert_eq!(stand_ins(&state, "controller").collect::<Vec<_>>(), [("a", ours)]);
    }
}
