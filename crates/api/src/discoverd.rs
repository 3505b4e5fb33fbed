//! Service discovery: instances of services, their events, their leader.

use std::collections::BTreeMap;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

/// Meta of an instance: the job it is.
pub const META_JOB: &str = "FLYNN_JOB_ID";
/// Meta of an instance: the host its job runs on, which alone may withdraw it.
pub const META_HOST: &str = "FLYNN_HOST_ID";

/// One process that offers a service at an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Hex MD5 of `<proto>-<addr>`; see [`Instance::id_of`].
    pub id: String,
    /// `ip:port`.
    pub addr: String,
    /// Lower-case letters and digits, `tcp` or `http` usually.
    pub proto: String,
    /// Facts for those who look: [`META_JOB`], `FLYNN_APP_ID`, `id`, ... Never a secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// etcd's create revision: the instance with the lowest is the oldest.
    #[serde(default)]
    pub index: u64,
    /// etcd's revision of its last change. `0` where it is not known.
    #[serde(default)]
    pub revision: u64,
}

impl Instance {
    /// An instance as a client registers it.
    pub fn new(proto: &str, addr: &str, meta: BTreeMap<String, String>) -> Self {
        Self {
            id: Self::id_of(proto, addr),
            addr: addr.into(),
            proto: proto.into(),
            meta,
            index: 0,
            revision: 0,
        }
    }

    /// The id an address has.
    pub fn id_of(proto: &str, addr: &str) -> String {
        hex::encode(Md5::digest(format!("{proto}-{addr}")))
    }
}

/// What happened to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// An instance appeared.
    Up,
    /// An instance's meta changed.
    Update,
    /// An instance was withdrawn, or its lease ran out.
    Down,
    /// The service has another leader, given as `instance`.
    Leader,
    /// All that was there at subscription has been sent.
    Current,
    /// The service's meta changed.
    ServiceMeta,
    /// A kind this version does not know.
    #[serde(other)]
    Unknown,
}

/// One line of a service's event stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The service; empty for `current` on the stream of all services.
    pub service: String,
    /// What happened.
    pub kind: EventKind,
    /// The instance concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// With `leader`: the term of that leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<Term>,
    /// With `service_meta`: the meta.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_meta: Option<ServiceMeta>,
    /// With `down`: true if it vanished by lease expiry rather than withdrawal, and may be alive still.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspect: bool,
    /// The etcd revision this event brings the subscriber to. Streams never go back.
    #[serde(default)]
    pub revision: u64,
}

/// Who obeys a leader stores the highest term seen and refuses a lower one.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Term {
    /// Raised by every recovery from a snapshot.
    pub epoch: u64,
    /// etcd's modification revision of the service's leader key.
    pub revision: u64,
}

/// The leader of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The instance that leads.
    #[serde(flatten)]
    pub instance: Instance,
    /// Its term.
    #[serde(default)]
    pub term: Term,
}

/// How a service's leader is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaderType {
    /// The oldest registration leads.
    #[default]
    Oldest,
    /// Whoever was set leads.
    Manual,
}

/// Body of `PUT /services/:s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceConfig {
    /// How its leader is chosen.
    #[serde(default)]
    pub leader_type: LeaderType,
}

/// Facts about a service, changed by compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceMeta {
    /// Any JSON.
    pub data: serde_json::Value,
    /// Sets the leader in the same write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_id: Option<String>,
    /// On a write: the index read before, 0 if there must be none. On a read: the present one.
    #[serde(default)]
    pub index: u64,
}

/// Answer to a registration or a withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// A subscriber whose stream has reached this revision has seen the change.
    pub revision: u64,
}
