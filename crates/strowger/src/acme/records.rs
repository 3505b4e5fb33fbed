//! What routers share about certificates, in etcd below `/strowger-acme/`. Private keys are sealed.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use keyspace::{Error, Keyspace, LeaseId, Transaction, Watch};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::plan::{Attempts, Spent};
use crate::seal::{SealError, Seals};

/// Below this is everything.
const PREFIX: &str = "/strowger-acme/";

/// Where something is stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Who orders; ends with its lease.
    Leader,
    /// When orders were made.
    Spent,
    /// The account at an authority, by a digest of its directory's URL.
    Account(String),
    /// The certificate of a name.
    Certificate(String),
    /// The order under way for a name, with what its authority asks for.
    Order(String),
    /// What failed for a name since its certificate was made.
    Attempts(String),
    /// What a router of this cluster answers when it is asked for a nonce.
    Nonce(String),
}

impl Place {
    /// The key in etcd.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Leader => format!("{PREFIX}leader"),
            Self::Spent => format!("{PREFIX}spent"),
            Self::Account(digest) => format!("{PREFIX}accounts/{digest}"),
            Self::Certificate(name) => format!("{PREFIX}certificates/{name}"),
            Self::Order(name) => format!("{PREFIX}orders/{name}"),
            Self::Attempts(name) => format!("{PREFIX}attempts/{name}"),
            Self::Nonce(nonce) => format!("{PREFIX}nonces/{nonce}"),
        }
    }

    /// The place of a key; `None` if this version knows none.
    pub(crate) fn of(key: &str) -> Option<Self> {
        let path = key.strip_prefix(PREFIX)?;
        let Some((kind, name)) = path.split_once('/') else {
            return match path {
                "leader" => Some(Self::Leader),
                "spent" => Some(Self::Spent),
                _ => None,
            };
        };
        let name = name.to_owned();
        match kind {
            "accounts" => Some(Self::Account(name)),
            "certificates" => Some(Self::Certificate(name)),
            "orders" => Some(Self::Order(name)),
            "attempts" => Some(Self::Attempts(name)),
            "nonces" => Some(Self::Nonce(name)),
            _ => None,
        }
    }
}

/// A certificate that was ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Certificate {
    /// PEM, the leaf first.
    pub(crate) chain: String,
    /// PEM, sealed.
    pub(crate) key: String,
    /// When it was stored, by the clock of the router that ordered it.
    pub(crate) issued_at: Timestamp,
}

/// How an authority finds out whether a name is its owner's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// HTTP-01, over port 80.
    Http,
    /// TLS-ALPN-01, over port 443.
    Tls,
}

/// An order that was made, with all that another router needs to bring it to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Where the authority keeps it.
    pub(crate) url: String,
    /// The authority.
    pub(crate) directory: String,
    /// Of the certificate to be; PEM, sealed.
    pub(crate) key: String,
    pub(crate) way: Way,
    /// What the authority asks for, and what it wants to hear; blank where it believes already.
    pub(crate) token: String,
    pub(crate) authorization: String,
    pub(crate) begun: Timestamp,
}

/// An account at an authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) directory: String,
    /// PKCS#8 in base64, sealed.
    pub(crate) key: String,
    /// What the authority calls it; none before it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// The addresses it knows.
    #[serde(default)]
    pub(crate) contact: Vec<String>,
}

/// What is stored cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// It is not what it should be.
    #[error("what is stored is not readable")]
    Json(#[from] serde_json::Error),
    /// Its key cannot be opened.
    #[error("its key {0}")]
    Sealed(#[from] SealError),
}

/// Reads a record.
pub(crate) fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, RecordError> {
    Ok(serde_json::from_slice(value)?)
}

pub(crate) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record is JSON")
}

/// The records in etcd.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    keyspace: Keyspace,
    seal: Arc<Seals>,
}

impl Records {
    /// In this etcd, with private keys under this seal.
    pub(crate) fn new(keyspace: Keyspace, seal: Arc<Seals>) -> Self {
        Self { keyspace, seal }
    }

    pub(crate) fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }

    /// Every change.
    pub(crate) fn watch(&self) -> Watch {
        self.keyspace.watch(PREFIX)
    }

    /// Seals a private key for a place.
    pub(crate) fn close(&self, place: &Place, key: &str) -> String {
        self.seal.close(&place.key(), key)
    }

    /// Opens a private key of a place.
    pub(crate) fn open(&self, place: &Place, key: &str) -> Result<String, SealError> {
        self.seal.open(&place.key(), key)
    }

    /// What is stored at a place.
    pub(crate) async fn value(&self, place: &Place) -> Result<Option<Bytes>, Error> {
        Ok(self.keyspace.get(&place.key()).await?.map(|entry| entry.value))
    }

    /// Makes this router the one that orders, while the lease lasts. [`Error::Conflict`] if another one does.
    pub(crate) async fn lead(&self, lease: LeaseId) -> Result<Lead, Error> {
        let key = Place::Leader.key();
        let claim = Transaction::new().when_absent(key.as_str());
        let claim = claim.put_leased(key, lease.to_string(), lease);
        let revision = self.keyspace.commit(claim).await?;
        Ok(Lead { records: self.clone(), revision, lease })
    }
}

/// What the router that orders writes with. Every write is refused once it is not the one any more.
#[derive(Debug, Clone)]
pub(crate) struct Lead {
    records: Records,
    /// Of its claim.
    pub(crate) revision: u64,
    lease: LeaseId,
}

impl Lead {
    pub(crate) fn records(&self) -> &Records {
        &self.records
    }

    fn guarded(&self) -> Transaction {
        Transaction::new().when_unchanged(Place::Leader.key(), self.revision)
    }

    async fn commit(&self, transaction: Transaction) -> Result<u64, Error> {
        self.records.keyspace.commit(transaction).await
    }

    /// Keeps an account.
    pub(crate) async fn keep_account(
        &self,
        place: &Place,
        account: &Account,
    ) -> Result<u64, Error> {
        self.commit(self.guarded().put(place.key(), encode(account))).await
    }

    /// Keeps when orders were made.
    pub(crate) async fn keep_spent(&self, spent: &Spent) -> Result<u64, Error> {
        self.commit(self.guarded().put(Place::Spent.key(), encode(spent))).await
    }

    /// Keeps an order, so that every router answers for it and another one can finish it.
    pub(crate) async fn keep_order(&self, name: &str, order: &Order) -> Result<u64, Error> {
        self.commit(self.guarded().put(Place::Order(name.into()).key(), encode(order))).await
    }

    /// Keeps a certificate; the order has come to its end, and what failed before is forgotten.
    pub(crate) async fn keep_certificate(
        &self,
        name: &str,
        certificate: &Certificate,
    ) -> Result<u64, Error> {
        let done = self.guarded().put(Place::Certificate(name.into()).key(), encode(certificate));
        let done = done.delete(Place::Order(name.into()).key());
        self.commit(done.delete(Place::Attempts(name.into()).key())).await
    }

    /// Keeps what failed. An order that cannot come to anything any more is forgotten.
    pub(crate) async fn keep_attempts(
        &self,
        name: &str,
        attempts: &Attempts,
        ends_order: bool,
    ) -> Result<u64, Error> {
        let failed = self.guarded().put(Place::Attempts(name.into()).key(), encode(attempts));
        self.commit(match ends_order {
            true => failed.delete(Place::Order(name.into()).key()),
            false => failed,
        })
        .await
    }

    /// Removes all that is stored of a name.
    pub(crate) async fn forget(&self, name: &str) -> Result<u64, Error> {
        let name = name.to_owned();
        let places =
            [Place::Certificate(name.clone()), Place::Order(name.clone()), Place::Attempts(name)];
        let gone = places.iter().fold(self.guarded(), |gone, place| gone.delete(place.key()));
        self.commit(gone).await
    }

    /// Lets every router answer a nonce, as long as this one leads at most.
    pub(crate) async fn keep_nonce(&self, nonce: &str, answer: &str) -> Result<u64, Error> {
        let place = Place::Nonce(nonce.into());
        self.commit(self.guarded().put_leased(place.key(), answer.to_owned(), self.lease)).await
    }

    /// No router answers it any more.
    pub(crate) async fn forget_nonce(&self, nonce: &str) -> Result<u64, Error> {
        self.commit(self.guarded().delete(Place::Nonce(nonce.into()).key())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_by_its_key_and_routes_are_none() {
        let name = || "a.example".to_owned();
        for place in [
            Place::Leader,
            Place::Spent,
            Place::Account(name()),
            Place::Certificate(name()),
            Place::Order(name()),
            Place::Attempts(name()),
            Place::Nonce(name()),
        ] {
            assert_eq!(Place::of(&place.key()), Some(place));
        }
        assert_eq!(Place::of("/strowger/http/x"), None);
        assert_eq!(Place::of("/strowger-acme/later/x"), None);
    }
}
