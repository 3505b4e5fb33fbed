//! Writes.

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, DeleteOptions, PutOptions, Txn, TxnOp};

use crate::{Error, Keyspace, LeaseId, error::is_lease_gone, revision};

/// Writes that happen together at one revision, if every guard holds. At most 128 of each.
#[derive(Debug, Clone, Default)]
#[must_use = "a transaction does nothing until it is committed"]
pub struct Transaction {
    guards: Vec<Guard>,
    writes: Vec<Write>,
}

#[derive(Debug, Clone)]
enum Guard {
    Absent(String),
    Present(String),
    Unchanged(String, u64),
}

#[derive(Debug, Clone)]
enum Write {
    Put(String, Bytes, Option<LeaseId>),
    Delete(String),
    DeleteBelow(String),
}

impl Transaction {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if there is no such key.
    pub fn when_absent(mut self, key: impl Into<String>) -> Self {
        self.guards.push(Guard::Absent(key.into()));
        self
    }

    /// Only if there is such a key.
    pub fn when_present(mut self, key: impl Into<String>) -> Self {
        self.guards.push(Guard::Present(key.into()));
        self
    }

    /// Only if the key's last change was at this revision; `0`: if there is no such key.
    pub fn when_unchanged(mut self, key: impl Into<String>, mod_revision: u64) -> Self {
        self.guards.push(Guard::Unchanged(key.into(), mod_revision));
        self
    }

    /// Sets a key. A lease it had is taken from it.
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Put(key.into(), value.into(), None));
        self
    }

    /// Sets a key that ends with a lease.
    pub fn put_leased(
        mut self,
        key: impl Into<String>,
        value: impl Into<Bytes>,
        lease: LeaseId,
    ) -> Self {
        self.writes.push(Write::Put(key.into(), value.into(), Some(lease)));
        self
    }

    /// Deletes a key; that there is none is no error.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.writes.push(Write::Delete(key.into()));
        self
    }

    /// Deletes everything whose key begins with `prefix`.
    pub fn delete_below(mut self, prefix: impl Into<String>) -> Self {
        self.writes.push(Write::DeleteBelow(prefix.into()));
        self
    }

    fn is_repeatable(&self) -> bool {
        self.guards.is_empty()
    }

    /// The key that stands for the transaction in errors.
    fn key(&self) -> &str {
        let guarded = self.guards.first().map(|guard| match guard {
            Guard::Absent(key) | Guard::Present(key) | Guard::Unchanged(key, _) => key,
        });
        let written = self.writes.first().map(|write| match write {
            Write::Put(key, ..) | Write::Delete(key) | Write::DeleteBelow(key) => key,
        });
        guarded.or(written).map_or("nothing", String::as_str)
    }

    fn lease(&self) -> Option<LeaseId> {
        self.writes.iter().find_map(|write| match write {
            Write::Put(_, _, lease) => *lease,
            Write::Delete(_) | Write::DeleteBelow(_) => None,
        })
    }

    fn to_etcd(&self) -> Txn {
        let guards = self.guards.iter().map(|guard| match guard {
            Guard::Absent(key) => Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
            Guard::Present(key) => Compare::create_revision(key.as_str(), CompareOp::Greater, 0),
            Guard::Unchanged(key, at) => {
                Compare::mod_revision(key.as_str(), CompareOp::Equal, *at as i64)
            }
        });
        let writes = self.writes.iter().map(|write| match write {
            Write::Put(key, value, lease) => {
                let options =
                    lease.as_ref().map(|lease| PutOptions::new().with_lease(lease.etcd()));
                TxnOp::put(key.as_str(), value.as_ref(), options)
            }
            Write::Delete(key) => TxnOp::delete(key.as_str(), None),
            Write::DeleteBelow(prefix) => {
                let below = DeleteOptions::new().with_range(after(prefix));
                TxnOp::delete(prefix.as_str(), Some(below))
            }
        });
        Txn::new().when(guards.collect::<Vec<_>>()).and_then(writes.collect::<Vec<_>>())
    }
}

impl Keyspace {
    /// Carries out a transaction and answers with its revision. One without guards is repeated while etcd is away, within
    /// the time of a call; of one with guards that ends with [`Error::is_unavailable`] it is not known whether it happened.
    pub async fn commit(&self, transaction: Transaction) -> Result<u64, Error> {
        let key = transaction.key();
        let txn = transaction.to_etcd();
        let call = || {
            let mut kv = self.client.kv_client();
            let txn = txn.clone();
            async move { kv.txn(txn).await }
        };
        let answer = if transaction.is_repeatable() {
            self.repeated("writing", key, call).await
        } else {
            self.once("writing", key, call()).await
        };
        let answer = answer.map_err(|err| match (err, transaction.lease()) {
            (Error::Refused { source, .. }, Some(id)) if is_lease_gone(&source) => {
                Error::LeaseGone { id }
            }
            (err, _) => err,
        })?;
        if answer.succeeded() {
            Ok(revision(answer.header()))
        } else {
            Err(Error::Conflict { key: key.into() })
        }
    }

    /// Sets a key.
    pub async fn put(&self, key: &str, value: impl Into<Bytes>) -> Result<u64, Error> {
        self.commit(Transaction::new().put(key, value)).await
    }

    /// Sets a key that ends with a lease.
    pub async fn put_leased(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        lease: LeaseId,
    ) -> Result<u64, Error> {
        self.commit(Transaction::new().put_leased(key, value, lease)).await
    }

    /// Sets a key that is not there yet; [`Error::Conflict`] if it is.
    pub async fn create(&self, key: &str, value: impl Into<Bytes>) -> Result<u64, Error> {
        self.commit(Transaction::new().when_absent(key).put(key, value)).await
    }

    /// Sets a key whose last change was at `mod_revision`; [`Error::Conflict`] if it was changed since.
    pub async fn put_if(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        mod_revision: u64,
    ) -> Result<u64, Error> {
        self.commit(Transaction::new().when_unchanged(key, mod_revision).put(key, value)).await
    }

    /// Deletes a key; that there is none is no error.
    pub async fn delete(&self, key: &str) -> Result<u64, Error> {
        self.commit(Transaction::new().delete(key)).await
    }

    /// Deletes a key whose last change was at `mod_revision`; [`Error::Conflict`] if it was changed since.
    pub async fn delete_if(&self, key: &str, mod_revision: u64) -> Result<u64, Error> {
        self.commit(Transaction::new().when_unchanged(key, mod_revision).delete(key)).await
    }
}

/// The first key after all that begin with `prefix`; a zero byte stands for "to the end".
pub(crate) fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_its_successor() {
        assert_eq!(after("/a/"), b"/a0");
        assert_eq!(after(""), [0]);
    }
}
