//! etcd as discoverd uses it: a history of facts, leases that run out, records changed by compare-and-set.

use std::collections::BTreeMap;

use api::discoverd::Instance;
use discoverd::domain::directory::{Fact, Held, Hold, LeaderRecord, What};

/// How long after its last renewal a host's lease ends, in ms.
const TTL: u64 = 5000;

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Etcd {
    /// Everything that became true, in order.
    pub(crate) facts: Vec<Fact>,
    pub(crate) revision: u64,
    /// Whether it answers anybody.
    pub(crate) up: bool,
    /// Host of each instance, by service and instance id.
    present: BTreeMap<(String, String), usize>,
    records: BTreeMap<String, u64>,
    /// When each host's lease ends.
    leases: BTreeMap<usize, u64>,
}

impl Etcd {
    pub(crate) fn new() -> Self {
        Self { up: true, ..Self::default() }
    }

    fn write(&mut self, service: &str, what: impl FnOnce(u64) -> What) {
        self.revision += 1;
        let (revision, service) = (self.revision, service.to_owned());
        self.facts.push(Fact { revision, service, what: what(revision) });
    }

    /// Renews a host's lease.
    pub(crate) fn renew(&mut self, host: usize, now: u64) {
        self.leases.insert(host, now + TTL);
    }

    /// Ends a host's lease: what discoverd does at boot with that of the previous one.
    pub(crate) fn revoke(&mut self, host: usize) {
        self.leases.remove(&host);
        self.drop_instances(host);
    }

    /// Ends the leases that ran out.
    pub(crate) fn expire(&mut self, now: u64) {
        let over: Vec<usize> =
            self.leases.iter().filter(|(_, end)| **end <= now).map(|(host, _)| *host).collect();
        for host in over {
            self.revoke(host);
        }
    }

    /// A leader change of etcd's extends every lease.
    pub(crate) fn extend_all(&mut self, now: u64) {
        self.leases.values_mut().for_each(|end| *end = now + TTL);
    }

    fn drop_instances(&mut self, host: usize) {
        let gone: Vec<(String, String)> = self
            .present
            .iter()
            .filter(|(_, at)| **at == host)
            .map(|(key, _)| key.clone())
            .collect();
        for (service, id) in gone {
            self.present.remove(&(service.clone(), id.clone()));
            self.write(&service, |_| What::Gone { id, leased: true });
        }
    }

    /// The instances of a host.
    pub(crate) fn of_host(&self, host: usize) -> Vec<(String, String)> {
        self.present.iter().filter(|(_, at)| **at == host).map(|(key, _)| key.clone()).collect()
    }

    pub(crate) fn register(&mut self, host: usize, service: &str, instance: &Instance) {
        let key = (service.to_owned(), instance.id.clone());
        if self.present.insert(key, host).is_none() {
            let mut instance = instance.clone();
            self.write(service, |revision| {
                instance.index = revision;
                What::Present(Held { instance, hold: Hold::Host, lease: None })
            });
        }
    }

    pub(crate) fn withdraw(&mut self, service: &str, id: &str) {
        if self.present.remove(&(service.to_owned(), id.to_owned())).is_some() {
            self.write(service, |_| What::Gone { id: id.into(), leased: false });
        }
    }

    /// Records who leads, if the record is still the one of revision `at`.
    pub(crate) fn record(&mut self, service: &str, record: Option<LeaderRecord>, at: u64) {
        if self.records.get(service).copied().unwrap_or(0) != at {
            return;
        }
        // A key that was deleted has no revision.
        self.records.insert(service.into(), record.as_ref().map_or(0, |_| self.revision + 1));
        self.write(service, |revision| {
            What::Leader(record.map(|record| LeaderRecord { revision, ..record }))
        });
    }
}
