//! sampi's wire: the shared state of the cluster and transactions on it, served by the leading flynn-host.
//!
//! `GET /cluster/state` answers [`State`]; `POST /cluster/commit` takes [`Tx`] and answers [`Committed`], or 409 with
//! `detail` holding [`Rejected`].

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    discoverd::Term,
    host::{Job, Limits},
    id::JobId,
};

/// What a host offers to all its jobs together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Bytes of memory that jobs' limits may add up to.
    pub memory: u64,
    /// Thousandths of a core.
    pub cpu: u64,
    /// Addresses on the job network.
    pub addresses: u32,
}

/// A job as sampi counts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// App, release, type: see the `META_` constants of [`crate::host`].
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// What it may use.
    pub limits: Limits,
}

/// A host as sampi sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// Counts up with every change to this host's jobs.
    pub version: u64,
    /// Address of its flynn-host, `ip:1113`.
    pub addr: String,
    /// Tags that placement may ask for.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What it offers.
    pub capacity: Capacity,
    /// Jobs that hold room.
    pub jobs: BTreeMap<JobId, Placed>,
}

/// Tag of a host that is to be emptied: nothing new is placed on it, and what runs there is started elsewhere first.
pub const TAG_DRAINING: &str = "flynn-draining";

/// Tag of a host whose disk is full: it refuses all jobs but those the cluster cannot do without.
pub const TAG_FULL: &str = "flynn-disk-full";

impl HostState {
    /// Whether its disk is full.
    pub fn is_full(&self) -> bool {
        self.tags.contains_key(TAG_FULL)
    }

    /// Whether it is to be emptied.
    pub fn is_draining(&self) -> bool {
        self.tags.contains_key(TAG_DRAINING)
    }
}

/// The whole cluster at one instant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Term of the leader that serves this.
    pub term: Term,
    /// Hosts by id. Shared, so that a look at a large cluster copies none of its jobs.
    pub hosts: BTreeMap<String, Arc<HostState>>,
    /// The host that has the data of each volume, also where it is away. Of a host that was taken out of the cluster none
    /// are named, and none at all by one that is alone: it has them all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, String>,
}

/// A transaction: all of it happens, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tx {
    /// The term of the state it was planned on.
    pub term: Term,
    /// Versions of the hosts it was planned on. A host that is not named is not checked.
    #[serde(default)]
    pub based_on: BTreeMap<String, u64>,
    /// Jobs to start, by host.
    #[serde(default)]
    pub add: BTreeMap<String, Vec<Job>>,
    /// Jobs to stop, by host.
    #[serde(default)]
    pub remove: BTreeMap<String, Vec<JobId>>,
}

/// The transaction happened and every host has taken its part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Versions of the hosts it touched.
    pub versions: BTreeMap<String, u64>,
    /// Hosts that did not take their part, with the reason: their jobs are out of the state again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost: BTreeMap<String, String>,
    /// Of these hosts: why each job was not taken. A version before has one reason for all of a host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<JobId, String>,
}

/// Why nothing happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The reason of each host that refused; the key is empty for the transaction as a whole.
    pub hosts: BTreeMap<String, Refusal>,
}

/// Why a host's part was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The host is not in the cluster.
    #[error("the host is gone")]
    Gone,
    /// The host changed since the state the transaction was planned on.
    #[error("the host has changed meanwhile")]
    Changed,
    /// The host has no room for the jobs.
    #[error("the host has no room")]
    NoRoom,
    /// A job of that id exists.
    #[error("a job of that id exists")]
    Duplicate,
    /// The transaction was planned under an older leader.
    #[error("the term is over")]
    OldTerm,
}
