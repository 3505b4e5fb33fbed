//! A job as the scheduler sees it.

use std::collections::BTreeMap;

use api::{
    host::{
        ActiveJob, EndReason, Job, Limits, META_APP, META_IN_PLACE_OF, META_RELEASE, META_TYPE,
        Status, Volume,
    },
    id::{AppId, JobId, ReleaseId},
};
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Metadata key: the ended job that this one replaces. It ties the life of a process together across its jobs, so that
/// back-off after crashes is known to a scheduler that was not there when they happened.
pub const META_REPLACES: &str = "flynn-controller.replaces";

/// One kind of process: what a formation counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Kind {
    /// App.
    pub app: AppId,
    /// Release.
    pub release: ReleaseId,
    /// Process type.
    pub name: String,
    #[serde(skip)]
    id: KindId,
}

/// What a kind is told from others by: equal for equal kinds alone. It lies in the kind itself, while the name has to be
/// fetched from elsewhere, which counts when a plan goes through a million jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KindId(u128);

impl KindId {
    /// That of the kind with these parts: a part of their SHA-256.
    pub fn of(app: AppId, release: ReleaseId, name: &str) -> Self {
        let parts = Sha256::new().chain_update(app.uuid()).chain_update(release.uuid());
        let digest = parts.chain_update(name).finalize();
        Self(u128::from_be_bytes(*digest.first_chunk().expect("SHA-256 has 32 bytes")))
    }
}

impl Kind {
    /// The kind with these parts.
    pub fn new(app: AppId, release: ReleaseId, name: impl Into<String>) -> Self {
        let name = name.into();
        Self { app, release, id: KindId::of(app, release, &name), name }
    }

    /// What it is told from others by.
    pub fn id(&self) -> KindId {
        self.id
    }
}

/// For whom a job runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// A formation.
    Process(Kind),
    /// Somebody who runs something once.
    OneOff {
        /// App.
        app: AppId,
        /// Release.
        release: ReleaseId,
    },
    /// Not the controller: layer 0, or something the operator started.
    Other,
}

impl Owner {
    /// What a job's metadata say.
    pub fn of(metadata: &BTreeMap<String, String>) -> Self {
        let app = metadata.get(META_APP).and_then(|id| id.parse().ok());
        let release = metadata.get(META_RELEASE).and_then(|id| id.parse().ok());
        match (app, release, metadata.get(META_TYPE)) {
            (Some(app), Some(release), Some(name)) if !name.is_empty() => {
                Self::Process(Kind::new(app, release, name.clone()))
            }
            (Some(app), Some(release), _) => Self::OneOff { app, release },
            _ => Self::Other,
        }
    }

    fn in_place_of(&self, metadata: &BTreeMap<String, String>) -> Option<KindId> {
        let Self::Process(kind) = self else { return None };
        let release = metadata.get(META_IN_PLACE_OF)?.parse().ok()?;
        Some(KindId::of(kind.app, release, &kind.name))
    }
}

/// Where a job is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// In the cluster's state; its host has not told of it yet.
    Ordered,
    /// Accepted by its host.
    Starting,
    /// Serving.
    Up,
    /// Told to stop.
    Stopping,
    /// Over.
    Ended(Ending),
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ending {
    /// When.
    pub at: Timestamp,
    /// Since when its process ran, if it did.
    pub started_at: Option<Timestamp>,
    /// Whether it was told to.
    pub asked: bool,
    /// Whether it counts as crashed for people: asked or not, status 0 is no crash.
    pub crashed: bool,
    /// Whether its host no longer lists it.
    pub forgotten: bool,
    /// Why, if its host said so.
    pub reason: Option<EndReason>,
    /// Exit status.
    pub exit_status: Option<i32>,
    /// What the host said.
    pub error: Option<String>,
}

/// A job as the scheduler sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobView {
    /// For whom it runs.
    pub owner: Owner,
    /// Where it is in its life.
    pub phase: Phase,
    /// Accepted by its host at; absent while it is only ordered.
    pub created_at: Option<Timestamp>,
    /// Its host restarts it.
    pub resurrect: bool,
    /// Its volumes: data on its host, so that it cannot be started elsewhere.
    pub volumes: Vec<Volume>,
    /// Times its process was started again after crashes.
    pub restarts: u32,
    /// The ended job it replaces.
    pub replaces: Option<JobId>,
    /// The kind of the process whose place its host lets it take.
    #[serde(skip)]
    pub in_place_of: Option<KindId>,
    /// What the host says is wrong with it.
    pub error: Option<String>,
    /// Arguments, of a one-off job.
    pub args: Vec<String>,
    /// What it may use.
    pub limits: Limits,
}

impl JobView {
    /// A job that is only in the cluster's state.
    pub fn ordered(metadata: &BTreeMap<String, String>, limits: &Limits) -> Self {
        let owner = Owner::of(metadata);
        Self {
            in_place_of: owner.in_place_of(metadata),
            owner,
            phase: Phase::Ordered,
            created_at: None,
            resurrect: false,
            volumes: Vec::new(),
            restarts: 0,
            replaces: metadata.get(META_REPLACES).and_then(|id| id.parse().ok()),
            error: None,
            args: Vec::new(),
            limits: limits.clone(),
        }
    }

    /// A job as its host tells of it. `asked`: it was seen stopping before, or its stop was ordered.
    pub fn told(active: &ActiveJob, asked: bool, now: Timestamp) -> Self {
        let phase = match active.status {
            Status::Starting => Phase::Starting,
            Status::Running => Phase::Up,
            Status::Stopping => Phase::Stopping,
            Status::Done | Status::Crashed | Status::Failed => Phase::Ended(Ending {
                at: active.ended_at.unwrap_or(now),
                started_at: active.started_at,
                asked,
                crashed: active.status != Status::Done && !asked,
                forgotten: false,
                reason: active.end_reason.or(match active.status {
                    // As hosts of the version before tell it.
                    Status::Failed => Some(EndReason::NotStarted),
                    _ => None,
                }),
                exit_status: active.exit_status,
                error: active.error.clone(),
            }),
        };
        let owner = Owner::of(&active.job.metadata);
        let one_off = matches!(owner, Owner::OneOff { .. });
        Self {
            phase,
            created_at: Some(active.created_at),
            error: active.error.clone(),
            args: if one_off { active.job.config.args.clone() } else { Vec::new() },
            ..Self::of_job(&active.job, active.host_restarts)
        }
    }

    /// A job that its host did not take, for this reason.
    pub fn not_taken(job: &Job, reason: &str, now: Timestamp) -> Self {
        let error = Some(reason.to_owned());
        let phase = Phase::Ended(Ending {
            at: now,
            started_at: None,
            asked: false,
            crashed: true,
            forgotten: true,
            reason: Some(EndReason::Refused),
            exit_status: None,
            error: error.clone(),
        });
        // Its host cannot restart what it did not take.
        Self { phase, error, resurrect: false, ..Self::of_job(job, 0) }
    }

    fn of_job(job: &Job, host_restarts: u32) -> Self {
        Self {
            resurrect: job.resurrect,
            volumes: job.config.volumes.clone(),
            restarts: job.restarts.saturating_add(host_restarts),
            ..Self::ordered(&job.metadata, &job.limits)
        }
    }

    /// A job whose order is under way.
    pub fn under_way(job: &Job) -> Self {
        Self { resurrect: false, ..Self::of_job(job, 0) }
    }

    /// Whether it keeps data on its host.
    pub fn is_bound(&self) -> bool {
        !self.volumes.is_empty()
    }

    /// Whether it runs or will: ordered, starting or up.
    pub fn lives(&self) -> bool {
        matches!(self.phase, Phase::Ordered | Phase::Starting | Phase::Up)
    }

    /// Whether it is over.
    pub fn ending(&self) -> Option<&Ending> {
        match &self.phase {
            Phase::Ended(ending) => Some(ending),
            _ => None,
        }
    }

    /// When its host, and not its release, kept it from running: it refused it, or could start no process.
    pub fn failed_by_host(&self) -> Option<Timestamp> {
        let ending = self.ending()?;
        let by_host = matches!(ending.reason, Some(EndReason::Refused | EndReason::NotStarted));
        by_host.then_some(ending.at)
    }

    /// The kind of process it is, if it is one of a formation's.
    pub fn kind(&self) -> Option<&Kind> {
        match &self.owner {
            Owner::Process(kind) => Some(kind),
            _ => None,
        }
    }
}
