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
        let sight = Sight { directory, lease, former: &self.former, clock: self.clock };
        self.wanted.retain(|key, wanted| match sight.lack(key, wanted) {
            Lack::Moot => false,
            Lack::Nothing => true,
            Lack::Write(step) => {
                steps.push(step);
                true
            }
        });
        steps
    }

    /// Whether a write that was planned is still wanted: while others were carried out, the instance may have been
    /// registered or withdrawn.
    pub(crate) fn is_due(&self, step: &Step, directory: &Directory, lease: LeaseId) -> bool {
        let sight = Sight { directory, lease, former: &self.former, clock: self.clock };
        let lack = self.wanted.get(step.key()).map(|wanted| sight.lack(step.key(), wanted));
        matches!(lack, Some(Lack::Write(now)) if now == *step)
    }
}

impl Step {
    /// What it writes.
    pub(crate) fn key(&self) -> &Key {
        let (Self::Put(key, ..) | Self::Withdraw(key) | Self::Expire(key, _)) = self;
        key
    }
}

/// What etcd lacks of something wanted.
enum Lack {
    /// It is wanted no more.
    Moot,
    Nothing,
    Write(Step),
}

/// What that is decided by.
struct Sight<'a> {
    directory: &'a Directory,
    lease: LeaseId,
    former: &'a BTreeSet<LeaseId>,
    clock: Duration,
}

impl Sight<'_> {
    fn lack(&self, key: &Key, wanted: &Wanted) -> Lack {
        let present = self.directory.instance(&key.0, &key.1);
        let ours = |held: &Held| {
            held.lease.is_none_or(|held| held == self.lease || self.former.contains(&held))
        };
        match (wanted, present) {
            (Wanted::Withdrawn, None) => Lack::Moot,
            (Wanted::Withdrawn, Some(_)) => Lack::Write(Step::Withdraw(key.clone())),
            (Wanted::Present { .. }, Some(held)) if !ours(held) => Lack::Moot,
            (Wanted::Present { until: Some(until), .. }, present) if *until <= self.clock => {
                let Some(held) = present else { return Lack::Moot };
                Lack::Write(Step::Expire(key.clone(), held.instance.revision))
            }
            (Wanted::Present { instance, until }, present) => {
                let settled = present.is_some_and(|held| {
                    held.lease == Some(self.lease) && same(&held.instance, instance)
                });
                if settled {
                    return Lack::Nothing;
                }
                let hold = if until.is_some() { Hold::Heartbeat } else { Hold::Host };
                Lack::Write(Step::Put(key.clone(), instance.clone(), hold))
            }
        }
    }
}

/// Whether two instances were registered alike; index and revision are etcd's.
pub(crate) fn same(one: &Instance, other: &Instance) -> bool {
    one.id == other.id && one.meta == other.meta
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    #[derive(Debug, Clone, Copy)]
    enum Happens {
        /// A host registers an instance.
        Registered(usize),
        /// It withdraws one.
        Withdrawn(usize),
        /// The lease ends, with all it carried.
        LeaseLost,
        /// What etcd lacks is planned.
        Planned,
        /// One of the planned writes is carried out.
        CarriedOut,
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            (0usize..3).prop_map(Happens::Registered),
            (0usize..3).prop_map(Happens::Withdrawn),
            Just(Happens::LeaseLost),
            Just(Happens::Planned),
            Just(Happens::CarriedOut),
            Just(Happens::CarriedOut),
        ]
    }

    /// etcd, for what is told by a revision.
    #[derive(Default)]
    struct Etcd {
        directory: Directory,
        revision: u64,
    }

    impl Etcd {
        fn put(&mut self, instance: &Instance, lease: LeaseId) {
            let held = Held { instance: instance.clone(), hold: Hold::Host, lease: Some(lease) };
            self.learn(What::Present(held));
        }

        fn delete(&mut self, id: &str) {
            if self.directory.instance("web", id).is_some() {
                self.learn(What::Gone { id: id.into(), leased: true });
            }
        }

        fn learn(&mut self, what: What) {
            self.revision += 1;
            let fact = Fact { revision: self.revision, service: "web".into(), what };
            self.directory.learn(vec![fact], self.revision);
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_between_a_plan_and_its_writes_etcd_ends_with_what_hosts_said_last(
            all in prop::collection::vec(happens(), 1..60),
        ) {
            let instances: Vec<Instance> = (0..3)
                .map(|n| Instance::new("tcp", &format!("10.0.0.{n}:80"), [].into()))
                .collect();
            let key = |instance: &Instance| ("web".to_owned(), instance.id.clone());
            let (mut registrations, mut etcd) = (Registrations::default(), Etcd::default());
            let mut said = BTreeSet::new();
            let (mut ours, mut planned) = (1, Vec::new());
            let end = [Happens::CarriedOut; 60].into_iter().chain([Happens::Planned]);
            let settle = end.clone().chain(end).chain([Happens::CarriedOut; 60]);
            for one in all.into_iter().chain(settle) {
                match one {
                    Happens::Registered(n) => {
                        registrations.hold(key(&instances[n]), instances[n].clone(), Hold::Host);
                        etcd.put(&instances[n], lease(ours));
                        said.insert(n);
                    }
                    Happens::Withdrawn(n) => {
                        registrations.withdraw(key(&instances[n]));
                        etcd.delete(&instances[n].id);
                        registrations.forget(&key(&instances[n]));
                        said.remove(&n);
                    }
                    Happens::LeaseLost => {
                        registrations.lease_ended(lease(ours));
                        instances.iter().for_each(|instance| etcd.delete(&instance.id));
                        ours += 1;
                    }
                    Happens::Planned => {
                        registrations.adopt(&etcd.directory, lease(ours));
                        planned = registrations.plan(&etcd.directory, lease(ours));
                    }
                    Happens::CarriedOut => {
                        let Some(step) = planned.pop() else { continue };
                        if !registrations.is_due(&step, &etcd.directory, lease(ours)) {
                            continue;
                        }
                        match step {
                            Step::Put(_, instance, _) => etcd.put(&instance, lease(ours)),
                            Step::Withdraw((_, id)) | Step::Expire((_, id), _) => etcd.delete(&id),
                        }
                    }
                }
            }
            let there = |n: &usize| etcd.directory.instance("web", &instances[*n].id).is_some();
            let there: BTreeSet<usize> = (0..3).filter(there).collect();
            prop_assert_eq!(there, said);
        }
    }
}
