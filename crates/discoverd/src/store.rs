//! The only place that knows etcd's keys.

use api::discoverd::{Instance, ServiceConfig};
use keyspace::{Change, Error, Keyspace, LeaseId, Transaction, Watch};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::warn;

use crate::domain::directory::{Fact, Held, Hold, LeaderRecord, What};

/// Everything of ours.
const ROOT: &str = "/discoverd/";
/// Everything of services.
const SERVICES: &str = "/discoverd/services/";
/// The cluster's epoch, raised by whoever recovers etcd from a snapshot.
const EPOCH: &str = "/discoverd/epoch";
/// Written in the same transaction as every withdrawal, and before it: so it is known from an expiry.
const WITHDRAWN: &str = "/discoverd/withdrawn";

/// discoverd's part of etcd.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) keyspace: Keyspace,
    host: String,
}

/// The value of an instance's key.
#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    instance: Instance,
    hold: Hold,
    #[serde(default)]
    host: String,
}

impl Store {
    /// `host` is noted with what this host registers, for people who look into etcd.
    pub(crate) fn new(keyspace: Keyspace, host: String) -> Self {
        Self { keyspace, host }
    }

    /// Every fact, for ever.
    pub(crate) fn watch(&self) -> Watch {
        self.keyspace.watch(ROOT)
    }

    pub(crate) async fn put_instance(
        &self,
        service: &str,
        instance: &Instance,
        hold: Hold,
        lease: LeaseId,
    ) -> Result<u64, Error> {
        let instance = Instance { index: 0, revision: 0, ..instance.clone() };
        let key = instance_key(service, &instance.id);
        let record = Record { instance, hold, host: self.host.clone() };
        self.keyspace.put_leased(&key, json(&record), lease).await
    }

    /// Deletes an instance. `None` if there was none.
    pub(crate) async fn withdraw(&self, service: &str, id: &str) -> Result<Option<u64>, Error> {
        let key = instance_key(service, id);
        let withdrawal = Transaction::new()
            .when_present(key.as_str())
            .put(WITHDRAWN, key.clone())
            .delete(key.as_str());
        match self.keyspace.commit(withdrawal).await {
            Ok(revision) => Ok(Some(revision)),
            Err(err) if err.is_conflict() => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Deletes an instance that fell silent, if it was not registered anew meanwhile.
    pub(crate) async fn expire(&self, service: &str, id: &str, revision: u64) -> Result<(), Error> {
        let expired = self.keyspace.delete_if(&instance_key(service, id), revision).await;
        match expired {
            Err(err) if !err.is_conflict() => Err(err),
            _ => Ok(()),
        }
    }

    /// Withdraws everything a lease carries, and ends it.
    pub(crate) async fn withdraw_lease(&self, lease: LeaseId) -> Result<(), Error> {
        let listing = self.keyspace.list(SERVICES).await?;
        let keys = listing.entries.into_iter().filter(|entry| entry.lease == Some(lease));
        let keys: Vec<String> = keys.map(|entry| entry.key).collect();
        for some in keys.chunks(100) {
            let withdrawal = Transaction::new().put(WITHDRAWN, lease.to_string());
            let withdrawal = some.iter().fold(withdrawal, |all, key| all.delete(key.as_str()));
            self.keyspace.commit(withdrawal).await?;
        }
        self.keyspace.revoke(lease).await
    }

    /// Creates a service; [`Error::Conflict`] if it was created before.
    pub(crate) async fn create_service(
        &self,
        service: &str,
        config: ServiceConfig,
    ) -> Result<u64, Error> {
        self.keyspace.create(&key(service, "config"), json(&config)).await
    }

    pub(crate) async fn delete_service(&self, service: &str) -> Result<u64, Error> {
        let all = format!("{SERVICES}{service}/");
        let deletion = Transaction::new().put(WITHDRAWN, all.clone()).delete_below(all);
        self.keyspace.commit(deletion).await
    }

    /// Sets a service's meta if its index is `index`, and perhaps its leader in the same write.
    pub(crate) async fn set_meta(
        &self,
        service: &str,
        data: &serde_json::Value,
        index: u64,
        leader: Option<&str>,
    ) -> Result<u64, Error> {
        let meta = key(service, "meta");
        let mut write =
            Transaction::new().when_unchanged(meta.as_str(), index).put(meta.as_str(), json(data));
        if let Some(id) = leader {
            write = chosen(write, service, id);
        }
        self.keyspace.commit(write).await
    }

    /// Sets the leader somebody chose; [`Error::Conflict`] if it is not registered.
    pub(crate) async fn choose_leader(&self, service: &str, id: &str) -> Result<u64, Error> {
        self.keyspace.commit(chosen(Transaction::new(), service, id)).await
    }

    /// Records who leads, if the record there is has not changed since `at`.
    pub(crate) async fn record_leader(
        &self,
        service: &str,
        record: Option<&LeaderRecord>,
        at: u64,
    ) -> Result<(), Error> {
        let leader = key(service, "leader");
        let recorded = match record {
            Some(record) => self.keyspace.put_if(&leader, json(record), at).await,
            None => self.keyspace.delete_if(&leader, at).await,
        };
        match recorded {
            // Another discoverd was faster.
            Err(err) if !err.is_conflict() => Err(err),
            _ => Ok(()),
        }
    }
}

fn chosen(transaction: Transaction, service: &str, id: &str) -> Transaction {
    let record = LeaderRecord { id: id.into(), index: 0, revision: 0 };
    transaction.when_present(instance_key(service, id)).put(key(service, "leader"), json(&record))
}

fn key(service: &str, what: &str) -> String {
    format!("{SERVICES}{service}/{what}")
}

fn instance_key(service: &str, id: &str) -> String {
    format!("{SERVICES}{service}/instances/{id}")
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("records serialise")
}

/// What a change of a key means. `None` for a key or value that is not ours.
pub(crate) fn fact(change: &Change) -> Option<Fact> {
    let Change { key, value, create_revision, mod_revision, lease } = change;
    let revision = *mod_revision;
    let fact = |service: &str, what| Some(Fact { revision, service: service.into(), what });
    let Some(rest) = key.strip_prefix(SERVICES) else {
        return match (key.as_str(), value) {
            (WITHDRAWN, Some(_)) => fact("", What::Withdrawn),
            (EPOCH, Some(value)) => fact("", What::Epoch(read(key, value)?)),
            _ => None,
        };
    };
    let (service, what) = rest.split_once('/')?;
    match (what, value) {
        ("config", Some(value)) => fact(service, What::Config(Some(read(key, value)?))),
        ("config", None) => fact(service, What::Config(None)),
        ("meta", Some(value)) => fact(service, What::Meta(Some(read(key, value)?))),
        ("meta", None) => fact(service, What::Meta(None)),
        ("leader", Some(value)) => {
            let record = LeaderRecord { revision, ..read(key, value)? };
            fact(service, What::Leader(Some(record)))
        }
        ("leader", None) => fact(service, What::Leader(None)),
        (what, Some(value)) => {
            let id = what.strip_prefix("instances/")?;
            let Record { instance, hold, .. } = read(key, value)?;
            let instance =
                Instance { id: id.into(), index: *create_revision, revision, ..instance };
            fact(service, What::Present(Held { instance, hold, lease: *lease }))
        }
        (what, None) => {
            let id = what.strip_prefix("instances/")?.to_owned();
            fact(service, What::Gone { id, leased: lease.is_some() })
        }
    }
}

/// `None`, and a warning, for a value that is not of its form: one bad key must not stop all others.
fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Option<T> {
    serde_json::from_slice(value)
        .inspect_err(
            |err| warn!(key, error = %err, "the value of {key} cannot be read and is left out"),
        )
        .ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_key_and_no_value_makes_reading_panic(
            tail in "(services/)?[a-z]{0,4}/?(instances/|meta|leader|config|.{0,4}).{0,6}",
            value in prop::option::of(".{0,40}"),
        ) {
            let value = value.map(Into::into);
            let key = format!("{ROOT}{tail}");
            fact(&Change { key, value, create_revision: 1, mod_revision: 2, lease: None });
        }
    }
}
