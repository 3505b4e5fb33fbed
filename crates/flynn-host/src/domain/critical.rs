//! When the leading host starts a controller or a scheduler itself, and where: without them nobody else would.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use api::{cluster::State, host::Limits, id::JobId};
use sampi::Room;
use tokio::time::Instant;

/// The services without which nothing is scheduled any more.
pub(crate) const SERVICES: [&str; 2] = ["controller", "controller-scheduler"];

/// Metadata: the service a job was started for by the leading host. Whoever schedules again adopts it as any other.
pub(crate) const META_STAND_IN: &str = "flynn-host.stand-in";

/// How long a service must have had no instance.
const ABSENCE: Duration = Duration::from_secs(15);

/// How long what was started may take to become an instance before another is started in its place; twice as long after
/// each, up to [`MOST_DOUBLED`] times, for it may be the image that takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

const MOST_DOUBLED: u32 = 4;

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

/// How long a service has been missed, by one leader, and what was done about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Vigil {
    absent_since: Option<Instant>,
    /// When the last one was started or found, if it may still become an instance.
    started: Option<Instant>,
    /// How many were started or found.
    count: u32,
    /// Hosts that had their turn: one may be what is wrong.
    tried: BTreeSet<String>,
}

/// What to do about a service that is missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Wait for one that was started already, by another leader perhaps.
    Wait,
    /// Start one on this host, in place of these.
    Start {
        /// The host.
        host: String,
        /// What was started before and came to nothing, by host.
        instead: BTreeMap<String, Vec<JobId>>,
    },
    /// No host has room.
    NoRoom,
}

impl Vigil {
    /// Takes what is seen. Answers whether it is time to do something.
    pub(crate) fn look(&mut self, sight: Sight, now: Instant) -> bool {
        match sight {
            Sight::There => *self = Self::default(),
            // Nobody is started on a guess, nor is what was started forgotten.
            Sight::Unknown => self.absent_since = None,
            Sight::Absent => _ = self.absent_since.get_or_insert(now),
        }
        let lasts = |since: Option<Instant>, time| {
            since.is_some_and(|since| now.duration_since(since) >= time)
        };
        lasts(self.absent_since, ABSENCE)
            && (self.started.is_none() || lasts(self.started, self.patience()))
    }

    fn patience(&self) -> Duration {
        PATIENCE * (1 << self.count.saturating_sub(1).min(MOST_DOUBLED))
    }

    /// What to do now that it is time.
    pub(crate) fn step(
        &mut self,
        state: &State,
        service: &str,
        limits: &Limits,
        now: Instant,
    ) -> Step {
        let mut instead: BTreeMap<String, Vec<JobId>> = BTreeMap::new();
        for (host, job) in stand_ins(state, service) {
            instead.entry(host.to_owned()).or_default().push(job);
        }
        if self.started.is_none() && !instead.is_empty() {
            self.begun(now);
            return Step::Wait;
        }
        let host = place(state, limits, &self.tried).or_else(|| {
            self.tried.clear();
            place(state, limits, &self.tried)
        });
        let Some(host) = host else {
            self.failed(now);
            return Step::NoRoom;
        };
        self.tried.insert(host.to_owned());
        self.begun(now);
        Step::Start { host: host.to_owned(), instead }
    }

    fn begun(&mut self, now: Instant) {
        self.started = Some(now);
        self.count = self.count.saturating_add(1);
    }

    /// Nothing was started: the next step follows an absence that is seen from now on.
    pub(crate) fn failed(&mut self, now: Instant) {
        (self.absent_since, self.started) = (Some(now), None);
    }
}

/// Of the hosts with room that were not tried the one with the most memory free; one that is being emptied comes last.
fn place<'a>(state: &'a State, limits: &Limits, tried: &BTreeSet<String>) -> Option<&'a str> {
    let untried = state.hosts.iter().filter(|(id, _)| !tried.contains(*id));
    let with_room = untried.filter_map(|(id, host)| {
        let room = Room::of(host);
        let rank = (host.is_draining(), Reverse(room.memory), id.as_str());
        room.fits(limits).then_some(rank)
    });
    with_room.min().map(|(_, _, id)| id)
}

/// What was started for a service before, and did not become an instance of it.
fn stand_ins<'a>(state: &'a State, service: &'a str) -> impl Iterator<Item = (&'a str, JobId)> {
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
        fn a_step_follows_an_absence_seen_without_a_gap_and_none_is_hurried(looks in sights()) {
            let state = state([("a", 9, false), ("b", 9, false)].into_iter());
            let limits = Limits { memory: 1, cpu: 0, ..Limits::default() };
            let (mut vigil, mut now) = (Vigil::default(), Instant::now());
            let (mut absent_since, mut last, mut count) = (None, None, 0_u32);
            for (sight, millis, fails) in looks {
                now += Duration::from_millis(millis);
                match sight {
                    Sight::There => (absent_since, last, count) = (None, None, 0),
                    Sight::Unknown => absent_since = None,
                    Sight::Absent => _ = absent_since.get_or_insert(now),
                }
                let long = absent_since.is_some_and(|since| now - since >= ABSENCE);
                let patience = PATIENCE * 2_u32.pow(count.saturating_sub(1).min(4));
                let calm = last.is_none_or(|last| now - last >= patience);
                let due = vigil.look(sight, now);
                prop_assert_eq!(due, long && calm);
                if due {
                    let is_start = matches!(vigil.step(&state, "x", &limits, now), Step::Start { .. });
                    prop_assert!(is_start);
                    (last, count) = (Some(now), count + 1);
                    if fails {
                        vigil.failed(now);
                        (last, absent_since) = (None, Some(now));
                    }
                }
            }
        }

        #[test]
        fn every_host_with_room_gets_its_turn_though_what_was_started_before_takes_room(
            hosts in prop::collection::btree_map("[a-e]", (0..10_u64, any::<bool>()), 1..5),
            wanted in 1..10_u64,
        ) {
            let all = hosts.iter().map(|(id, &(memory, draining))| (id.as_str(), memory, draining));
            let mut state = state(all);
            let limits = Limits { memory: wanted, cpu: 0, ..Limits::default() };
            let fitting: Vec<_> = hosts.iter().filter(|(_, (memory, _))| *memory >= wanted).collect();
            let (mut vigil, mut now) = (Vigil::default(), Instant::now());
            let mut chosen = Vec::new();
            for n in 0..fitting.len() {
                let step = vigil.step(&state, "x", &limits, now);
                let Step::Start { host, instead } = step else { panic!("{step:?}") };
                prop_assert_eq!(instead.values().map(Vec::len).sum::<usize>(), n.min(1));
                for (host, jobs) in instead {
                    let host = Arc::make_mut(state.hosts.get_mut(&host).unwrap());
                    host.jobs.retain(|id, _| !jobs.contains(id));
                }
                let metadata = [(META_STAND_IN.into(), "x".into())].into();
                let placed = Placed { metadata, limits: limits.clone() };
                Arc::make_mut(state.hosts.get_mut(&host).unwrap()).jobs.insert(JobId::random(), placed);
                chosen.push(host);
                now += PATIENCE;
            }
            let draining: Vec<bool> = chosen.iter().map(|id| hosts[id].1).collect();
            prop_assert!(draining.is_sorted(), "those that are emptied come last");
            chosen.sort_unstable();
            prop_assert_eq!(chosen, fitting.into_iter().map(|(id, _)| id.clone()).collect::<Vec<_>>());
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
    fn what_another_leader_started_has_its_time_and_only_that_of_the_service_is_replaced() {
        let mut state = state([("a", 9, false)].into_iter());
        let limits = Limits { memory: 1, cpu: 0, ..Limits::default() };
        let stand_in = |service: &str| Placed {
            metadata: [(META_STAND_IN.into(), service.into())].into(),
            limits: Limits { memory: 1, ..Limits::default() },
        };
        let (ours, other) = (JobId::random(), JobId::random());
        let host = Arc::make_mut(state.hosts.get_mut("a").unwrap());
        host.jobs.insert(ours, stand_in("controller"));
        host.jobs.insert(other, stand_in("controller-scheduler"));
        let (mut vigil, mut now) = (Vigil::default(), Instant::now());
        assert_eq!(vigil.step(&state, "controller", &limits, now), Step::Wait);
        vigil.look(Sight::Absent, now);
        now += ABSENCE;
        assert!(!vigil.look(Sight::Absent, now));
        now += PATIENCE;
        assert!(vigil.look(Sight::Absent, now));
        let instead = [("a".into(), vec![ours])].into();
        let expected = Step::Start { host: "a".into(), instead };
        assert_eq!(vigil.step(&state, "controller", &limits, now), expected);
        let all = Limits { memory: 99, ..limits };
        assert_eq!(vigil.step(&state, "controller", &all, now), Step::NoRoom);
    }
}
