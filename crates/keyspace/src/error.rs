/// Why a call of etcd did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The endpoints cannot be used as they are written.
    #[error("etcd's endpoints {endpoints:?} cannot be used; write them as http://host:2379")]
    Endpoints {
        /// As given.
        endpoints: Vec<String>,
        /// Why.
        #[source]
        source: etcd_client::Error,
    },
    /// etcd is away, or has no leader. A write may have happened nevertheless.
    #[error("etcd was not available while {doing} {key}")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// To which key.
        key: String,
        /// What the connection said.
        #[source]
        source: etcd_client::Error,
    },
    /// etcd did not answer in time. A write may have happened nevertheless.
    #[error("etcd did not answer in time while {doing} {key}")]
    Silent {
        /// What was being done.
        doing: &'static str,
        /// To which key.
        key: String,
    },
    /// A guard did not hold; nothing was written.
    #[error("{key} was changed by somebody else meanwhile")]
    Conflict {
        /// The first key of the transaction's guards.
        key: String,
    },
    /// The lease has ended, and every key with it.
    #[error("lease {id} has ended")]
    LeaseGone {
        /// Which.
        id: crate::LeaseId,
    },
    /// etcd refused.
    #[error("etcd refused {doing} {key}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// To which key.
        key: String,
        /// Why.
        #[source]
        source: etcd_client::Error,
    },
}

impl Error {
    pub(crate) fn of(doing: &'static str, key: &str, source: etcd_client::Error) -> Self {
        let key = key.to_owned();
        if is_passing(&source) {
            Self::Unavailable { doing, key, source }
        } else {
            Self::Refused { doing, key, source }
        }
    }

    /// Whether etcd was away, so that the same call may succeed later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Silent { .. })
    }

    /// Whether a guard did not hold.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// Whether an error says that etcd is away and not that the call is wrong.
pub(crate) fn is_passing(err: &etcd_client::Error) -> bool {
    /// gRPC's codes: CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, ABORTED, INTERNAL, UNAVAILABLE. A connection that is cut
    /// shows as any of them.
    const PASSING: [i32; 6] = [1, 2, 4, 10, 13, 14];
    match err {
        etcd_client::Error::GRpcStatus(status) => PASSING.contains(&(status.code() as i32)),
        etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => true,
        etcd_client::Error::WatchError(_) => true,
        _ => false,
    }
}

/// Whether an error says that a lease does not exist.
pub(crate) fn is_lease_gone(err: &etcd_client::Error) -> bool {
    match err {
        etcd_client::Error::GRpcStatus(status) => status.message().contains("lease not found"),
        etcd_client::Error::LeaseKeepAliveError(said) => said.contains("lease not found"),
        _ => false,
    }
}
