//! Leases.

use std::{fmt, str::FromStr, time::Duration};

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};
use serde::{Deserialize, Serialize};

use crate::{Error, Keyspace, error::is_lease_gone};

/// Longest wait for the answer to one renewal.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Names a lease.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(i64);

impl LeaseId {
    pub(crate) fn of(etcd: i64) -> Option<Self> {
        (etcd != 0).then_some(Self(etcd))
    }

    pub(crate) fn etcd(self) -> i64 {
        self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for LeaseId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        i64::from_str_radix(text, 16).map(Self)
    }
}

/// A lease that is being kept. It does not end with this value, but when nobody renews it any more.
pub struct Lease {
    keyspace: Keyspace,
    id: LeaseId,
    stream: Option<(LeaseKeeper, LeaseKeepAliveStream)>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.id)
    }
}

impl Lease {
    /// Its name.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Renews it once. [`Error::LeaseGone`] if it ended; any other error says nothing about the lease, so renew again
    /// soon.
    pub async fn renew(&mut self) -> Result<(), Error> {
        let id = self.id;
        let renewed = tokio::time::timeout(RENEWAL_TIMEOUT, self.renew_on_stream()).await;
        let err = match renewed {
            Ok(Ok(ttl)) if ttl > 0 => return Ok(()),
            Ok(Ok(_)) => Error::LeaseGone { id },
            Ok(Err(err)) if is_lease_gone(&err) => Error::LeaseGone { id },
            Ok(Err(source)) => {
                Error::Unavailable { doing: "renewing lease", key: id.to_string(), source }
            }
            Err(_) => Error::Silent { doing: "renewing lease", key: id.to_string() },
        };
        self.stream = None;
        Err(err)
    }

    async fn renew_on_stream(&mut self) -> Result<i64, etcd_client::Error> {
        let Some((keeper, answers)) = &mut self.stream else {
            // Opening the stream renews once.
            let mut client = self.keyspace.client.lease_client();
            self.stream = Some(client.keep_alive(self.id.0).await?);
            return Ok(1);
        };
        keeper.keep_alive().await?;
        let closed = || etcd_client::Error::WatchError("the stream of renewals ended".into());
        Ok(answers.message().await?.ok_or_else(closed)?.ttl())
    }
}

impl Keyspace {
    /// Makes a lease that ends `ttl` after its last renewal; etcd counts in seconds and takes no less than 2.
    pub async fn grant(&self, ttl: Duration) -> Result<Lease, Error> {
        // A lease granted twice because an answer was lost is harmless: nobody renews it.
        let seconds = ttl.as_secs().max(2) as i64;
        let answer = self
            .repeated("granting", "a lease", || {
                let mut client = self.client.lease_client();
                async move { client.grant(seconds, None).await }
            })
            .await?;
        Ok(self.lease(LeaseId(answer.id())))
    }

    /// Goes on with a lease that was granted before, perhaps by a process that is no more.
    pub fn lease(&self, id: LeaseId) -> Lease {
        Lease { keyspace: self.clone(), id, stream: None }
    }

    /// The time a lease has left, `None` if it ended.
    pub async fn remaining(&self, id: LeaseId) -> Result<Option<Duration>, Error> {
        let answer = self
            .repeated("asking about lease", &id.to_string(), || {
                let mut client = self.client.lease_client();
                async move { client.time_to_live(id.0, None).await }
            })
            .await?;
        Ok(u64::try_from(answer.ttl()).ok().filter(|ttl| *ttl > 0).map(Duration::from_secs))
    }

    /// Ends a lease, and every key with it. That it ended before is no error.
    pub async fn revoke(&self, id: LeaseId) -> Result<(), Error> {
        let revoked = self
            .repeated("revoking lease", &id.to_string(), || {
                let mut client = self.client.lease_client();
                async move { client.revoke(id.0).await }
            })
            .await;
        match revoked {
            Err(Error::Refused { source, .. }) if is_lease_gone(&source) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}
