//! Who owns which address of the host's subnet.
//!
//! Addresses are given in rotation, so that one that was freed comes back as late as can be, and never before its
//! quarantine is over: a router that has not heard of the withdrawal would send one app's requests to another's process.
//! To processes of the kind that had it last there is no such danger, and when few are left they get it back as soon as
//! the routers know: an app that starts and stops processes without end keeps no other from being started.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use api::{
    host::{Job, META_APP, META_TYPE},
    id::JobId,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::net::Cidr;

/// Few are left below this part of all.
const FEW: u32 = 4;

/// Also from its own kind an address rests so long: the engine lets go of it some time after the process has ended.
const LET_GO: Duration = Duration::from_secs(10);

/// Addresses and their owners.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    subnet: Cidr,
    quarantine: Duration,
    next: u32,
    owners: BTreeMap<Ipv4Addr, JobId>,
    freed: BTreeMap<Ipv4Addr, Freed>,
}

/// What is known of a freed address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Freed {
    /// When.
    pub(crate) at: Timestamp,
    /// Every router has taken note of the withdrawal.
    pub(crate) acknowledged: bool,
    /// What had it, if that was an app's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
}

/// What has to outlive the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// Where the rotation goes on.
    #[serde(default)]
    pub(crate) next: u32,
    /// Addresses that may be in quarantine.
    #[serde(default)]
    pub(crate) freed: BTreeMap<Ipv4Addr, Freed>,
}

/// There is no address to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no address is free on this host: all are in use or were freed so lately that a router may \
     still send there; start fewer jobs here or wait some minutes"
)]
pub(crate) struct NoRoom;

impl Pool {
    /// A pool that goes on where `saved` left off.
    pub(crate) fn new(subnet: Cidr, quarantine: Duration, saved: Saved) -> Self {
        let Saved { next, freed } = saved;
        let freed = freed.into_iter().filter(|(address, _)| subnet.contains(*address)).collect();
        Self {
            subnet,
            quarantine,
            next: next % subnet.room().max(1),
            owners: BTreeMap::new(),
            freed,
        }
    }

    /// Gives a job of that kind an address; the same one if it has one.
    pub(crate) fn take(
        &mut self,
        job: JobId,
        kind: Option<&str>,
        now: Timestamp,
    ) -> Result<Ipv4Addr, NoRoom> {
        if let Some((&address, _)) = self.owners.iter().find(|(_, owner)| **owner == job) {
            return Ok(address);
        }
        let quarantine = self.quarantine;
        self.freed.retain(|_, freed| !over(freed, quarantine, now));
        let room = self.subnet.room();
        let known = u32::try_from(self.owners.len() + self.freed.len()).unwrap_or(u32::MAX);
        if room.saturating_sub(known) < room.div_ceil(FEW)
            && let Some(address) = self.had_longest_ago(kind, now)
        {
            self.freed.remove(&address);
            self.owners.insert(address, job);
            return Ok(address);
        }
        for n in 0..room {
            let slot = (self.next + n) % room;
            let address = self.subnet.address(slot);
            if !self.owners.contains_key(&address) && !self.freed.contains_key(&address) {
                self.next = (slot + 1) % room;
                self.owners.insert(address, job);
                return Ok(address);
            }
        }
        Err(NoRoom)
    }

    /// Notes that a job has an address already: it was adopted. `false` if another job has it.
    pub(crate) fn claim(&mut self, job: JobId, address: Ipv4Addr) -> bool {
        self.freed.remove(&address);
        *self.owners.entry(address).or_insert(job) == job
    }

    /// Of the addresses that such a process had last, and of which all routers know that it has it no more.
    fn had_longest_ago(&self, kind: Option<&str>, now: Timestamp) -> Option<Ipv4Addr> {
        let kind = kind?;
        let same = |freed: &Freed| over(freed, LET_GO, now) && freed.kind.as_deref() == Some(kind);
        let had = self.freed.iter().filter(|(_, freed)| same(freed));
        had.min_by_key(|(_, freed)| freed.at).map(|(&address, _)| address)
    }

    /// Takes the address back from a job of that kind. `acknowledged`: nobody ever sent anything there, or all routers
    /// know already.
    pub(crate) fn free(
        &mut self,
        address: Ipv4Addr,
        kind: Option<String>,
        now: Timestamp,
        acknowledged: bool,
    ) {
        if self.owners.remove(&address).is_some() {
            self.freed.insert(address, Freed { at: now, acknowledged, kind });
        }
    }

    /// Notes that all routers know that the address is free.
    pub(crate) fn acknowledge(&mut self, address: Ipv4Addr) {
        if let Some(freed) = self.freed.get_mut(&address) {
            freed.acknowledged = true;
        }
    }

    /// Addresses in use.
    pub(crate) fn owners(&self) -> &BTreeMap<Ipv4Addr, JobId> {
        &self.owners
    }

    /// What has to outlive the daemon, with the rotation moved `ahead` so that as many can be taken before the next
    /// time it is saved.
    pub(crate) fn saved(&self, ahead: u32) -> Saved {
        let next = (self.next + ahead) % self.subnet.room().max(1);
        Saved { next, freed: self.freed.clone() }
    }
}

/// Processes of one kind may follow each other at an address: the app's of one type, whatever their release.
pub(crate) fn kind(job: &Job) -> Option<String> {
    let [app, name] = [META_APP, META_TYPE].map(|key| job.metadata.get(key));
    Some(format!("{}/{}", app?, name?))
}

/// Whether an address has rested so long, and the routers know.
fn over(freed: &Freed, rest: Duration, now: Timestamp) -> bool {
    let since = now.duration_since(freed.at);
    freed.acknowledged && since.unsigned_abs() >= rest && !since.is_negative()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const QUARANTINE: Duration = Duration::from_secs(300);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn pool(subnet: &str) -> Pool {
        Pool::new(subnet.parse().unwrap(), QUARANTINE, Saved::default())
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take(u8),
        Free(usize),
        Acknowledge(usize),
        Pass(i64),
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u8..3).prop_map(Step::Take),
            3 => any::<usize>().prop_map(Step::Free),
            2 => any::<usize>().prop_map(Step::Acknowledge),
            1 => (1i64..400).prop_map(Step::Pass),
            1 => Just(Step::Restart),
        ];
        prop::collection::vec(step, 1..120)
    }

    proptest! {
        #[test]
        fn an_address_never_has_two_owners_and_rests_before_it_is_given_again(steps in steps()) {
            let mut pool = pool("10.0.0.0/28");
            let mut now = 0;
            let mut owned: BTreeMap<Ipv4Addr, (JobId, u8)> = BTreeMap::new();
            let mut freed: BTreeMap<Ipv4Addr, (i64, bool, u8)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Take(kind) => {
                        let job = JobId::random();
                        let rests = |a: &Ipv4Addr| {
                            freed.get(a).is_some_and(|(t, ack, _)| !ack || now - t < 300)
                        };
                        let own = |a: &Ipv4Addr| {
                            freed
                                .get(a)
                                .is_some_and(|(t, ack, last)| *ack && now - t >= 10 && *last == kind)
                        };
                        let few = owned.len() + freed.keys().filter(|a| rests(a)).count() > 9;
                        match pool.take(job, Some(&kind.to_string()), at(now)) {
                            Ok(address) => {
                                prop_assert!(!rests(&address) || few && own(&address));
                                prop_assert_eq!(owned.insert(address, (job, kind)), None);
                                freed.remove(&address);
                            }
                            Err(NoRoom) => {
                                let kept = freed.keys().filter(|a| rests(a) && !own(a)).count();
                                prop_assert_eq!(owned.len() + kept, 13, "a refusal must be real");
                            }
                        }
                    }
                    Step::Free(n) if !owned.is_empty() => {
                        let address = *owned.keys().nth(n % owned.len()).unwrap();
                        let (_, kind) = owned.remove(&address).unwrap();
                        pool.free(address, Some(kind.to_string()), at(now), false);
                        freed.insert(address, (now, false, kind));
                    }
                    Step::Acknowledge(n) if !freed.is_empty() => {
                        let address = *freed.keys().nth(n % freed.len()).unwrap();
                        pool.acknowledge(address);
                        freed.get_mut(&address).unwrap().1 = true;
                    }
                    Step::Pass(seconds) => now += seconds,
                    Step::Restart => {
                        pool = Pool::new("10.0.0.0/28".parse().unwrap(), QUARANTINE, pool.saved(4));
                        for (&address, &(job, _)) in &owned {
                            prop_assert!(pool.claim(job, address));
                        }
                    }
                    Step::Free(_) | Step::Acknowledge(_) => {}
                }
            }
        }
    }

    #[test]
    fn addresses_are_given_in_rotation() {
        let mut pool = pool("10.0.0.0/24");
        let first = pool.take(JobId::random(), Some("a/web"), at(0)).unwrap();
        pool.free(first, Some("a/web".into()), at(0), true);
        let second = pool.take(JobId::random(), Some("a/web"), at(1000)).unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(second, Ipv4Addr::new(10, 0, 0, 3));
    }

    #[test]
    fn a_job_keeps_its_address() {
        let (mut pool, job) = (pool("10.0.0.0/24"), JobId::random());
        assert_eq!(pool.take(job, None, at(0)), pool.take(job, None, at(1)));
        let address = pool.take(job, None, at(2)).unwrap();
        assert!(!pool.claim(JobId::random(), address));
    }

    #[test]
    fn an_app_that_is_replaced_without_end_leaves_a_quarter_to_the_others() {
        let mut pool = pool("10.0.0.0/24");
        let mut used = BTreeSet::new();
        for n in 0..1000 {
            let address = pool.take(JobId::random(), Some("a/web"), at(n / 10)).unwrap();
            used.insert(address);
            pool.free(address, Some("a/web".into()), at(n / 10), false);
            pool.acknowledge(address);
        }
        let others: Vec<_> =
            std::iter::from_fn(|| pool.take(JobId::random(), Some("a/worker"), at(100)).ok())
                .collect();
        assert_eq!(used.len() + others.len(), 253);
        assert!(others.len() * 4 >= 252, "only {} are left", others.len());
        assert!(others.iter().all(|address| !used.contains(address)));
    }
}
