//! flynn-host: jobs on one host.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{cluster::Capacity, discoverd::Term, id::JobId};

/// Metadata key: the id of the app a job belongs to.
pub const META_APP: &str = "flynn-controller.app";
/// Metadata key: the name of that app.
pub const META_APP_NAME: &str = "flynn-controller.app_name";
/// Metadata key: the id of the release a job runs.
pub const META_RELEASE: &str = "flynn-controller.release";
/// Metadata key: the process type; absent on one-off jobs.
pub const META_TYPE: &str = "flynn-controller.type";
/// Metadata: there for a process of a type that runs on every host.
pub const META_OMNI: &str = "flynn-controller.omni";
/// What the keys of metadata that the controller and the scheduler read begin with: clients set none of them.
pub const META_RESERVED: &str = "flynn-controller.";

/// Metadata: the release whose process a job takes the place of on its host, be it that its own release is not to run yet.
/// Until it is, the job counts as one of that release.
pub const META_IN_PLACE_OF: &str = "flynn-controller.in_place_of";

/// A process to run in a container: all a host needs to know, with no choice left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The job's id; the same id again is the same job.
    pub id: JobId,
    /// Image reference, `flynn/slugrunner`. Never pulled unless the name says a registry.
    pub image: String,
    /// A slug to run on top of `image`, unpacked at `/app`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slug: Option<Slug>,
    /// See the `META_` constants.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// What it runs and sees.
    #[serde(default)]
    pub config: JobConfig,
    /// Limits; a field that is absent has the default of [`Limits::default`].
    #[serde(default)]
    pub limits: Limits,
    /// The host restarts it by itself, with the same id, address and volumes: the cluster cannot heal without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resurrect: bool,
    /// The job on the same host whose place it takes. It is on trial until it is healthy: if it ends before, it is not
    /// started again, and the other keeps the place. The two run beside each other, unless they share a volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<JobId>,
    /// Times this job was started before, by the scheduler's count; only for display.
    #[serde(default)]
    pub restarts: u32,
}

/// A slug by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slug {
    /// Path in shelf, `/slugs/<sha256>.tgz`.
    pub path: String,
    /// Hex SHA-256 of the file.
    pub sha256: String,
}

/// What a job runs and sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobConfig {
    /// Replaces the image's entrypoint, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Arguments to the entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment, besides what the host adds (`PORT`, `FLYNN_JOB_ID`, `DISCOVERD`, `EXTERNAL_IP`, `FLYNN_HOST_ID`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// A terminal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// Keep stdin open for an attached client.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// Ports it listens on. The first is `PORT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Directories that outlive the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Use the host's network instead of an address of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
    /// Capabilities added to none (`NET_BIND_SERVICE`, ...). A job with any runs without `no-new-privileges`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub linux_capabilities: Vec<String>,
    /// Time between SIGTERM and SIGKILL, in seconds.
    #[serde(default = "default_stop_timeout_seconds")]
    pub stop_timeout_seconds: u32,
    /// Its host ends it after it has run for this time; never, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit_seconds: Option<u32>,
}

fn default_stop_timeout_seconds() -> u32 {
    30
}

/// A port a job listens on at its own address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The number.
    pub port: u16,
    /// `tcp` or `http`; the proto of the registration.
    #[serde(default = "default_proto")]
    pub proto: String,
    /// Registers the job as an instance of this service while its check passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
}

fn default_proto() -> String {
    "tcp".into()
}

/// A service a port offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Name in discoverd.
    pub name: String,
    /// How the host knows that it works; absent: registered as soon as it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<HealthCheck>,
}

/// How a host knows that a job works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// `tcp` or `http`.
    #[serde(default = "default_proto", rename = "type")]
    pub kind: String,
    /// Path of an http check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Path that must be answered well once before `path` is asked: for what a process needs to start, and not to serve on.
    /// What it answers later withdraws and kills nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_path: Option<String>,
    /// Status an http check must answer with; any below 500 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Kill the job when it fails after it has passed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kill_down: bool,
    /// How long it may take to pass for the first time, in nanoseconds; 0 means the default, 60 s.
    #[serde(default)]
    pub start_timeout: u64,
}

/// A directory that outlives the container, on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Names the directory on its host: the next job that names it gets the same.
    pub name: String,
    /// Where the job sees it.
    pub path: String,
    /// Whether several jobs may have it at once; else a host refuses a job while another has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

/// What a job may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of memory, swap included.
    pub memory: u64,
    /// Thousandths of a core, as weight when cores are short; 0: no own weight.
    pub cpu: u32,
    /// Processes and threads.
    pub max_procs: u32,
    /// Open files a process.
    pub max_fd: u32,
    /// Bytes written outside volumes.
    pub temp_disk: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: 1 << 30, cpu: 1000, max_procs: 1024, max_fd: 10_000, temp_disk: 1 << 30 }
    }
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted; its container is being made, or it has not passed its checks yet.
    Starting,
    /// Its process runs, its checks pass, and the routers know it.
    Running,
    /// Told to stop; no longer registered.
    Stopping,
    /// Ended with status 0, or because it was told to.
    Done,
    /// Ended otherwise.
    Crashed,
    /// Could not be started at all.
    Failed,
}

impl Status {
    /// Whether the job holds room on its host.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Stopping)
    }
}

/// Why a job ended, or never began. It travels from the host to people; sentences are made from it at the edge, and nobody
/// reads a sentence to find it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Its process ended by itself, with the exit status beside this.
    Exited,
    /// Its host killed it, because it passed one of its limits.
    LimitExceeded,
    /// Its process ran, and never passed its check within the start timeout.
    CheckNeverPassed,
    /// It served, and then failed its check for longer than it may.
    CheckFailed,
    /// No process could be started: the image, the slug or the engine did not allow it.
    NotStarted,
    /// Its host is gone, or no longer knows it.
    HostLost,
    /// Its host did not take the order.
    Refused,
    /// It was told to stop.
    Stopped,
    /// A word of a newer version.
    #[serde(other)]
    Unknown,
}

impl EndReason {
    /// Whether the job's own program is the cause, not the place it was put: what a deployment counts against a release.
    pub fn blames_release(self) -> bool {
        match self {
            Self::Exited | Self::LimitExceeded | Self::CheckNeverPassed | Self::CheckFailed => true,
            Self::NotStarted | Self::HostLost | Self::Refused | Self::Stopped | Self::Unknown => {
                false
            }
        }
    }
}

/// A job as its host sees it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveJob {
    /// What was ordered.
    pub job: Job,
    /// The host.
    pub host_id: String,
    /// Engine's id of the container; empty while there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    /// Its address on the job network, or the host's for `host_network`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_ip: Option<std::net::IpAddr>,
    /// State.
    pub status: Status,
    /// Accepted at.
    pub created_at: Timestamp,
    /// Process started at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Ended at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Exit status; 128 + n for signal n.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    /// Why it failed, or what its check last saw, as a sentence for its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why it ended, once it has; of a job that its host restarts, why its last process did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    /// Times the host itself restarted it (resurrection).
    #[serde(default)]
    pub host_restarts: u32,
}

/// A change to a job, in a host's event stream. The stream begins with one `current` per known job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub event: EventKind,
    /// The job concerned; absent for `synced`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<ActiveJob>,
}

/// What happened to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Known at subscription.
    Current,
    /// All that was known at subscription has been sent.
    Synced,
    /// Accepted.
    Create,
    /// Its process was started.
    Start,
    /// It passes its checks and the routers know it.
    Up,
    /// It was told to stop.
    Stopping,
    /// It ended.
    Stop,
    /// It could not be started.
    Error,
    /// It was forgotten.
    Cleanup,
}

/// Body of `POST /attach`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// The job, which need not be known yet: the server then says "waiting".
    pub job_id: JobId,
    /// Sum of the `ATTACH_` constants.
    pub flags: u8,
    /// Rows of the terminal.
    #[serde(default)]
    pub height: u16,
    /// Columns of the terminal.
    #[serde(default)]
    pub width: u16,
    /// With [`ATTACH_LOGS`]: only that many of the last lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
}

/// Send stdout.
pub const ATTACH_STDOUT: u8 = 1;
/// Send stderr.
pub const ATTACH_STDERR: u8 = 2;
/// Take stdin.
pub const ATTACH_STDIN: u8 = 4;
/// Send what was logged before.
pub const ATTACH_LOGS: u8 = 8;
/// Go on with what comes.
pub const ATTACH_STREAM: u8 = 16;

/// Answer of `GET /host/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// The host's id, chosen once at init.
    pub id: String,
    /// Changes at every boot.
    pub boot_id: String,
    /// Version of the daemon.
    pub version: String,
    /// Subnet of the job network.
    pub subnet: String,
    /// Host part of the bridge: where jobs reach the host.
    pub gateway: std::net::IpAddr,
    /// Jobs that hold room.
    pub jobs: u32,
    /// What it offers to all its jobs together.
    pub capacity: Capacity,
    /// Bytes free for images, logs and volumes.
    pub disk_free: u64,
    /// Whether this host leads (serves `/cluster/...`).
    pub leader: bool,
}

/// A host of the cluster, as `GET /cluster/hosts` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// Its id.
    pub id: String,
    /// Where the other hosts find it; absent on a host that is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<std::net::IpAddr>,
    /// Its part of the job network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// Its part in etcd.
    pub etcd: EtcdRole,
    /// Address of its API, as its neighbours and jobs reach it; absent while it is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Whether it is there at present.
    pub up: bool,
    /// Whether the leading host cannot reach it, although it is there: it is left out, and its jobs run elsewhere.
    #[serde(default)]
    pub unreachable: bool,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it is being emptied.
    pub draining: bool,
    /// Whether its disk is full, so that it takes no more jobs.
    #[serde(default)]
    pub full: bool,
    /// Jobs that hold room; absent if the leading host does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<u32>,
    /// Bytes of memory their limits add up to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used: Option<u64>,
    /// What it offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// When it joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_at: Option<Timestamp>,
}

/// A host's part in etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EtcdRole {
    /// None: it asks the others.
    None,
    /// A member that follows, until it has everything.
    Learner,
    /// A member with a vote.
    Voter,
}

/// An invitation for one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// What `flynn-host join` is given.
    pub invitation: String,
}

/// How etcd was recovered after the loss of its quorum.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recovered {
    /// Hosts that could not be told: they must not come back with what their etcd knew.
    pub untold: Vec<String>,
}

/// Header that carries the term of whoever gives a host an order.
pub const TERM_HEADER: &str = "flynn-term";

impl Term {
    /// The term as a header value, `epoch.revision`.
    pub fn to_header(self) -> String {
        format!("{}.{}", self.epoch, self.revision)
    }

    /// The term a header value says.
    pub fn from_header(text: &str) -> Option<Self> {
        let (epoch, revision) = text.split_once('.')?;
        Some(Self { epoch: epoch.parse().ok()?, revision: revision.parse().ok()? })
    }
}
