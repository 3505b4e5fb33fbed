//! What this discoverd holds for others, and how what etcd has is brought to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use api::discoverd::Instance;
use keyspace::LeaseId;

use super::directory::{Directory, Held, Hold};

/// An instance with a heartbeat of its own ends this long after the last one.
pub(crate) const HEARTBEAT_TTL: Duration = Duration::from_secs(10);

/// Service and instance.
pub(crate) type Key = (String, String);

/// What is wanted of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// It shall be registered.
    Present {
        /// As it was registered.
        instance: Instance,
        /// When its silence ends it, on the clock that runs only while etcd is there.
        until: Option<Duration>,
    },
    /// It was withdrawn while etcd was away.
    Withdrawn,
}

/// A write that etcd lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Register it.
    Put(Key, Instance, Hold),
    /// It was withdrawn.
    Withdraw(Key),
    /// It fell silent; the record to delete is of this revision.
    Expire(Key, u64),
}

/// Everything this discoverd holds.
#[derive(Debug, Default)]
pub(crate) struct Registrations {
    wanted: BTreeMap<Key, Wanted>,
    /// Leases of ours that ended.
    former: BTreeSet<LeaseId>,
    /// Time during which etcd was there.
    clock: Duration,
}

impl Registrations {
    /// An instance was registered, or renewed. Answers with what was wanted before.
    pub(crate) fn hold(&mut self, key: Key, instance: Instance, hold: Hold) -> Option<Wanted> {
        let until = (hold == Hold::Heartbeat).then(|| self.clock + HEARTBEAT_TTL);
        self.wanted.insert(key, Wanted::Present { instance, until })
    }

    /// An instance was withdrawn.
    pub(crate) fn withdraw(&mut self, key: Key) {
        self.wanted.insert(key, Wanted::Withdrawn);
    }

    /// What was wanted before a write that did not succeed.
    pub(crate) fn restore(&mut self, key: Key, before: Option<Wanted>) {
        match before {
            Some(before) => self.wanted.insert(key, before),
            None => self.wanted.remove(&key),
        };
    }

    /// It is withdrawn from etcd, by us or by somebody else.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.wanted.remove(key);
    }

    /// The whole service was removed.
    pub(crate) fn forget_service(&mut self, service: &str) {
        self.wanted.retain(|(of, _), _| of != service);
    }

    /// A lease of ours ended; what it carried is to be registered again.
    pub(crate) fn lease_ended(&mut self, lease: LeaseId) {
        self.former.insert(lease);
    }

    /// So much time passed while etcd was there.
    pub(crate) fn advance(&mut self, time: Duration) {
        self.clock += time;
    }

    /// Takes on what our lease carries and we do not know: an earlier process registered it, or a write whose answer
    /// was lost.
    pub(crate) fn adopt(&mut self, directory: &Directory, lease: LeaseId) {
        for (service, of) in directory.services() {
            for held in of.instances().filter(|held| held.lease == Some(lease)) {
                let key = (service.to_owned(), held.instance.id.clone());
                if !self.wanted.contains_key(&key) {
                    self.hold(key, held.instance.clone(), held.hold);
                }
            }
        }
    }

    /// The writes that bring etcd, as the directory shows it, to what is wanted. Forgets what is settled or somebody
    /// else's.
    pub(crate) fn plan(&mut self, directory: &Directory, lease: LeaseId) -> Vec<Step> {
        let mut steps = Vec::new();
        let (clock, former) = (self.clock, &self.former);
        self.wanted.retain(|key, wanted| {
            let present = directory.instance(&key.0, &key.1);
            let ours =
                |held: &Held| held.lease.is_none_or(|held| held == lease || former.contains(&held));
            match (&*wanted, present) {
                (Wanted::Withdrawn, None) => return false,
                (Wanted::Withdrawn, Some(_)) => steps.push(Step::Withdraw(key.clone())),
                (Wanted::Present { .. }, Some(held)) if !ours(held) => return false,
                (Wanted::Present { until: Some(until), .. }, present) if *until <= clock => {
                    let Some(held) = present else { return false };
                    steps.push(Step::Expire(key.clone(), held.instance.revision));
                }
                (Wanted::Present { instance, until }, present) => {
                    let settled = present.is_some_and(|held| {
                        held.lease == Some(lease) && same(&held.instance, instance)
                    });
                    if !settled {
                        let hold = if until.is_some() { Hold::Heartbeat } else { Hold::Host };
                        steps.push(Step::Put(key.clone(), instance.clone(), hold));
                    }
                }
            }
            true
        });
        steps
    }
}

/// Whether two instances were registered alike; index and revision are etcd's.
pub(crate) fn same(one: &Instance, other: &Instance) -> bool {
    one.id == other.id && one.meta == other.meta
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::directory::{Fact, What};

    const SECOND: Duration = Duration::from_secs(1);

    fn lease(n: u64) -> LeaseId {
        format!("{n:x}").parse().unwrap()
    }

    fn instance() -> Instance {
        Instance { revision: 5, ..Instance::new("tcp", "10.0.0.1:80", [].into()) }
    }

    fn key() -> Key {
        ("web".into(), instance().id)
    }

    fn etcd_with(lease: LeaseId, hold: Hold) -> Directory {
        let what = What::Present(Held { instance: instance(), hold, lease: Some(lease) });
        let mut directory = Directory::default();
        directory.learn(vec![Fact { revision: 5, service: "web".into(), what }], 5);
        directory
    }

    #[test]
    fn what_etcd_lacks_is_registered_again() {
        let mut registrations = Registrations::default();
        registrations.hold(key(), instance(), Hold::Host);
        let put = vec![Step::Put(key(), instance(), Hold::Host)];
        assert_eq!(registrations.plan(&Directory::default(), lease(1)), put);
        assert_eq!(registrations.plan(&etcd_with(lease(1), Hold::Host), lease(1)), []);
        registrations.lease_ended(lease(1));
        assert_eq!(registrations.plan(&etcd_with(lease(1), Hold::Host), lease(2)), put);
    }

    #[test]
    fn a_silent_instance_ends_and_the_time_without_etcd_does_not_count() {
        let mut registrations = Registrations::default();
        registrations.hold(key(), instance(), Hold::Heartbeat);
        let etcd = etcd_with(lease(1), Hold::Heartbeat);
        registrations.advance(HEARTBEAT_TTL - SECOND);
        assert_eq!(registrations.plan(&etcd, lease(1)), []);
        registrations.hold(key(), instance(), Hold::Heartbeat);
        registrations.advance(HEARTBEAT_TTL - SECOND);
        assert_eq!(registrations.plan(&etcd, lease(1)), []);
        registrations.advance(SECOND);
        assert_eq!(registrations.plan(&etcd, lease(1)), [Step::Expire(key(), 5)]);
        assert_eq!(registrations.plan(&Directory::default(), lease(1)), []);
        assert!(registrations.wanted.is_empty());
    }

    #[test]
    fn a_withdrawal_is_carried_out_when_etcd_returns() {
        let mut registrations = Registrations::default();
        registrations.hold(key(), instance(), Hold::Host);
        registrations.withdraw(key());
        let etcd = etcd_with(lease(1), Hold::Host);
        registrations.adopt(&etcd, lease(1));
        assert_eq!(registrations.plan(&etcd, lease(1)), [Step::Withdraw(key())]);
        assert_eq!(registrations.plan(&Directory::default(), lease(1)), []);
        assert!(registrations.wanted.is_empty());
    }

    #[test]
    fn what_an_earlier_process_registered_is_taken_on_and_what_another_holds_is_left_to_it() {
        let mut registrations = Registrations::default();
        registrations.adopt(&etcd_with(lease(2), Hold::Heartbeat), lease(1));
        assert!(registrations.wanted.is_empty());
        registrations.adopt(&etcd_with(lease(1), Hold::Heartbeat), lease(1));
        registrations.advance(HEARTBEAT_TTL);
        let steps = registrations.plan(&etcd_with(lease(1), Hold::Heartbeat), lease(1));
        assert_eq!(steps, [Step::Expire(key(), 5)]);
        assert_eq!(registrations.plan(&etcd_with(lease(2), Hold::Heartbeat), lease(1)), []);
        assert!(registrations.wanted.is_empty());
    }
}
