//! Jobs and what they log.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    host,
    id::{AppId, ArtifactId, JobId, ReleaseId},
};

/// State of a job as the controller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Wanted, but not placed: see `host_error` for why (no room, back-off after crashes until `run_at`).
    Pending,
    /// Placed; not serving yet.
    Starting,
    /// Passes its checks; routers know it.
    Up,
    /// Told to stop.
    Stopping,
    /// Ended because it was told to, or with status 0.
    Down,
    /// Ended otherwise, or could not be started.
    Crashed,
}

impl JobState {
    /// Whether the job's process has ended for good.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Down | Self::Crashed)
    }

    /// The state a host's status stands for.
    pub fn of(status: host::Status) -> Self {
        match status {
            host::Status::Starting => Self::Starting,
            host::Status::Running => Self::Up,
            host::Status::Stopping => Self::Stopping,
            host::Status::Done => Self::Down,
            host::Status::Crashed | host::Status::Failed => Self::Crashed,
        }
    }
}

/// A job as the controller was told of it. A copy: the host owns the truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// `<host id>-<job id>`; just the job id while it is pending.
    pub id: String,
    /// The job part.
    pub uuid: JobId,
    /// The host, once placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<String>,
    /// App.
    pub app: AppId,
    /// Release.
    pub release: ReleaseId,
    /// Process type; empty for one-off jobs.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// State.
    pub state: JobState,
    /// Arguments, for one-off jobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Exit status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    /// Why it is not up, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_error: Option<String>,
    /// Why it ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<host::EndReason>,
    /// When it will be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// Times it was started again after crashes.
    #[serde(default)]
    pub restarts: u32,
    /// Made at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Last heard of at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
}

/// Body of `POST /apps/:app/jobs`: a one-off job.
///
/// With `Upgrade: flynn-attach/0` the answer is 101 and the connection carries attach frames.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewJob {
    /// The release whose artifacts and environment it has; the app's current one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
    /// Run these artifacts instead of the release's (then no release is needed).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<ArtifactId>,
    /// Whether the release's environment is given to it.
    #[serde(default)]
    pub release_env: bool,
    /// Arguments to the entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Replaces the entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Added to the environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Facts about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// A terminal.
    #[serde(default)]
    pub tty: bool,
    /// Its columns.
    #[serde(default)]
    pub tty_columns: u16,
    /// Its lines.
    #[serde(default)]
    pub tty_lines: u16,
    /// Limits, where they differ from the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<host::Limits>,
    /// It is ended after it has run for this time: [`ONE_OFF_SECONDS`] if absent, [`ONE_OFF_SECONDS_MAX`] at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

/// How long a one-off job may run if nobody says: what was forgotten does not hold its room for ever.
pub const ONE_OFF_SECONDS: u32 = 24 * 3600;
/// How long one may run at most: what never ends is a process type.
pub const ONE_OFF_SECONDS_MAX: u32 = 30 * 24 * 3600;

/// A line of a job's log: newline-delimited JSON of `GET /apps/:app/log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The host.
    pub host_id: String,
    /// The job, `<host id>-<job id>`.
    pub job_id: String,
    /// Its process type; empty for one-off jobs.
    #[serde(default)]
    pub process_type: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The line, without its end.
    pub msg: String,
    /// Written at.
    pub timestamp: Timestamp,
}
