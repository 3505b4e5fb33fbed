//! Who owns which address of the host's subnet.
//!
//! Addresses are given in rotation, so that one that was freed comes back as late as can be, and never before its
//! quarantine is over: a router that has not heard of the withdrawal would send one app's requests to another's process.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use api::id::JobId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::net::Cidr;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Freed {
    /// When.
    pub(crate) at: Timestamp,
    /// Every router has taken note of the withdrawal.
    pub(crate) acknowledged: bool,
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

    /// Gives a job an address; the same one if it has one.
    pub(crate) fn take(&mut self, job: JobId, now: Timestamp) -> Result<Ipv4Addr, NoRoom> {
        if let Some((&address, _)) = self.owners.iter().find(|(_, owner)| **owner == job) {
            return Ok(address);
        }
        let quarantine = self.quarantine;
        self.freed.retain(|_, freed| !over(freed, quarantine, now));
        let room = self.subnet.room();
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

    /// Takes the address back. `acknowledged`: nobody ever sent anything there, or all routers know already.
    pub(crate) fn free(&mut self, address: Ipv4Addr, now: Timestamp, acknowledged: bool) {
        if self.owners.remove(&address).is_some() {
            self.freed.insert(address, Freed { at: now, acknowledged });
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

fn over(freed: &Freed, quarantine: Duration, now: Timestamp) -> bool {
    let since = now.duration_since(freed.at);
    freed.acknowledged && since.unsigned_abs() >= quarantine && !since.is_negative()
}

#[cfg(test)]
mod tests {
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
        Take,
        Free(usize),
        Acknowledge(usize),
        Pass(i64),
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Take),
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
            let mut owned: BTreeMap<Ipv4Addr, JobId> = BTreeMap::new();
            let mut freed: BTreeMap<Ipv4Addr, (i64, bool)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Take => {
                        let job = JobId::random();
                        let blocked = |a: &Ipv4Addr| {
                            freed.get(a).is_some_and(|(t, ack)| !ack || now - t < 300)
                        };
                        match pool.take(job, at(now)) {
                            Ok(address) => {
                                prop_assert!(!blocked(&address));
                                prop_assert_eq!(owned.insert(address, job), None);
                                freed.remove(&address);
                            }
                            Err(NoRoom) => {
                                let resting = freed.keys().filter(|a| blocked(a)).count();
                                prop_assert_eq!(owned.len() + resting, 13, "a refusal must be real");
                            }
                        }
                    }
                    Step::Free(n) if !owned.is_empty() => {
                        let address = *owned.keys().nth(n % owned.len()).unwrap();
                        owned.remove(&address);
                        pool.free(address, at(now), false);
                        freed.insert(address, (now, false));
                    }
                    Step::Acknowledge(n) if !freed.is_empty() => {
                        let address = *freed.keys().nth(n % freed.len()).unwrap();
                        pool.acknowledge(address);
                        freed.get_mut(&address).unwrap().1 = true;
                    }
                    Step::Pass(seconds) => now += seconds,
                    Step::Restart => {
                        pool = Pool::new("10.0.0.0/28".parse().unwrap(), QUARANTINE, pool.saved(4));
                        for (&address, &job) in &owned {
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
        let first = pool.take(JobId::random(), at(0)).unwrap();
        pool.free(first, at(0), true);
        let second = pool.take(JobId::random(), at(1000)).unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(second, Ipv4Addr::new(10, 0, 0, 3));
    }

    #[test]
    fn a_job_keeps_its_address() {
        let (mut pool, job) = (pool("10.0.0.0/24"), JobId::random());
        assert_eq!(pool.take(job, at(0)), pool.take(job, at(1)));
        let address = pool.take(job, at(2)).unwrap();
        assert!(!pool.claim(JobId::random(), address));
    }
}
