//! Keys, providers, resources.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{AppId, ProviderId, ResourceId};

/// An SSH key that may push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// MD5 of the wire-format key, 32 hex digits: its id, as in 2014.
    pub fingerprint: String,
    /// `<type> <base64>`.
    pub key: String,
    /// The rest of the line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The apps it may push to; to every app if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<AppId>,
    /// Added at.
    pub created_at: Timestamp,
}

/// Body of `POST /keys`: one line of an `authorized_keys` file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKey {
    /// The line.
    pub key: String,
    /// Names or ids of the apps it may push to; every app if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<String>,
}

/// Something that makes resources: `url` answers `POST` with `{id, env}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Id.
    pub id: ProviderId,
    /// `discoverd+http://postgres-api/databases`, ...
    pub url: String,
    /// Name.
    pub name: String,
    /// Made at.
    pub created_at: Timestamp,
    /// Changed at.
    pub updated_at: Timestamp,
}

/// Body of `POST /providers`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields of Provider")]
pub struct NewProvider {
    pub url: String,
    pub name: String,
    /// What the provider wants as the password. Kept, and never answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl fmt::Debug for NewProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without its key.
        f.debug_struct("NewProvider").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Something provisioned for apps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Id.
    pub id: ResourceId,
    /// Who made it.
    pub provider: ProviderId,
    /// The provider's id of it.
    pub external_id: String,
    /// How to reach it.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Apps that use it.
    #[serde(default)]
    pub apps: Vec<AppId>,
    /// Made at.
    pub created_at: Timestamp,
    /// Removed at; it can be restored until `purge_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    /// When a removed one is destroyed, with all that is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_at: Option<Timestamp>,
    /// Whether its provider is being asked to destroy it: it can be restored no longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub purging: bool,
}

/// Body of `POST /providers/:provider/resources`; with `external_id` and `env` it records what exists already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields of Resource")]
pub struct NewResource {
    /// Names or ids.
    #[serde(default)]
    pub apps: Vec<String>,
    #[serde(default)]
    pub config: serde_json::Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// Header of a `POST` to a provider: a request with the same value is the same request, and makes nothing twice.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A provider's answer to `POST <url>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisioned {
    /// The provider's id.
    pub id: String,
    /// How to reach it.
    pub env: BTreeMap<String, String>,
}

/// What a deletion of what is no longer kept has deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Releases.
    pub releases: u64,
    /// Artifacts that no release names.
    pub artifacts: u64,
    /// Blobs of shelf.
    pub blobs: u64,
    /// Bytes of those.
    pub bytes: u64,
}
