//! Changes of apps, and sinks.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Strategy;
use crate::id::{AppId, ReleaseId, SinkId};

/// Prefix of the app meta keys that say what Flynn itself may do with an app: bootstrap alone sets them, at creation.
pub const META_SYSTEM_PREFIX: &str = "flynn-system-";

/// Body of `POST /apps/:app` and of `POST /apps/:app/meta`: what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppChange {
    /// May be given, but not changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<AppId>,
    /// May be given, but not changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Entries to set, and with `null` to remove; for `POST /apps/:app/meta` all entries there shall be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<BTreeMap<String, Option<String>>>,
    /// How it is deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Seconds a step of a deployment may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy_timeout: Option<u32>,
    /// May be given, but not changed: that is a deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
}

/// Where the lines of all logs shall go besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sink {
    /// Id.
    pub id: SinkId,
    /// `syslog`.
    pub kind: String,
    /// Where to, and in what form: `url`, and what the kind knows besides.
    #[serde(default)]
    pub config: serde_json::Value,
    /// What comes of it.
    #[serde(default)]
    pub delivery: Delivery,
    /// Made at.
    pub created_at: Timestamp,
    /// Changed at.
    pub updated_at: Timestamp,
}

/// Whether lines are sent to a sink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// It is kept, and nothing is sent there by this version.
    #[default]
    NotYet,
}

/// Body of `POST /sinks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields of Sink")]
pub struct NewSink {
    pub kind: String,
    #[serde(default)]
    pub config: serde_json::Value,
}
