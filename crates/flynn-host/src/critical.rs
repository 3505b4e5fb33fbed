//! The leading host's care for what schedules: the specs of controller and scheduler, kept in etcd, and a job of each
//! started from there when there is none any more.
//!
//! A spec holds secrets and etcd's data lies on disks, so it is sealed under a key of the cluster key's.

use std::{convert::Infallible, error::Error, sync::Arc};

use api::{
    cluster::Tx,
    discoverd::{Leader, META_HOST, META_JOB},
    host::{Job, META_APP_NAME},
    id::JobId,
};
use daemon::{Seal, reconcile::Reconcile};
use discoverd_client::ServiceWatch;
use keyspace::Keyspace;
use serde_json::error::Error as JsonError;
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    cluster::{CommitError, Leadership},
    domain::critical::{META_STAND_IN, SERVICES, Sight, Step, Vigil},
};

/// Below it: a sealed spec a service.
const KEPT: &str = "/flynn/critical/";

/// What the leading host does for the critical services, a round a second.
pub(crate) struct Critical {
    leadership: Arc<Leadership>,
    etcd: Keyspace,
    seal: Seal,
    /// While this host leads.
    watched: Vec<Watched>,
}

/// A critical service as its leader sees it.
struct Watched {
    instances: ServiceWatch,
    vigil: Vigil,
    /// The job whose spec is in etcd.
    kept: Option<JobId>,
}

/// A spec could not be kept, or none could be started.
#[derive(Debug, thiserror::Error)]
enum CriticalError {
    #[error(transparent)]
    Etcd(#[from] keyspace::Error),
    #[error("the spec could not be read")]
    Json(#[from] JsonError),
    #[error(
        "its spec in etcd was sealed under another cluster key; start a host that ran it, which \
         starts it again"
    )]
    Sealed,
    #[error(
        "none was seen yet, so that its spec is not kept in etcd; start a host that ran it, which \
         starts it again"
    )]
    NeverSeen,
    #[error(
        "no host has room for it ({} MiB): stop jobs with `flynn-host stop JOB` or add a host",
        .0 >> 20
    )]
    NoRoom(u64),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("host {0} did not take it: {1}")]
    Lost(String, String),
}

impl Critical {
    pub(crate) fn new(leadership: Arc<Leadership>, etcd: Keyspace, key: &str) -> Self {
        Self { leadership, etcd, seal: Seal::new(key), watched: Vec::new() }
    }

    /// Keeps the spec of the oldest instance: while a release is deployed that is the one known to work.
    async fn keep(&self, service: &str, leader: &Leader) -> Result<Option<JobId>, CriticalError> {
        let meta = &leader.instance.meta;
        let (Some(host), Some(Ok(id))) =
            (meta.get(META_HOST), meta.get(META_JOB).map(|id| id.parse()))
        else {
            return Ok(None);
        };
        // Before the job is looked at: what another leader writes meanwhile stays.
        let key = format!("{KEPT}{service}");
        let known = self.etcd.get(&key).await?;
        let Some(job) = self.leadership.job_at(host, id).await else { return Ok(None) };
        if !job.resurrect || !job.config.volumes.is_empty() {
            // Not what bootstrap made, or bound to its host.
            return Ok(Some(id));
        }
        let spec = serde_json::to_vec(&as_spec(job))?;
        let opened = known.as_ref().and_then(|known| self.seal.open(service, &known.value));
        if opened.as_deref() != Some(&*spec) {
            let sealed = self.seal.close(service, spec);
            match known {
                Some(known) => self.etcd.put_if(&key, sealed, known.mod_revision).await?,
                None => self.etcd.create(&key, sealed).await?,
            };
            info!(job.id = %id, "the spec of {service} is kept as it runs in job {id}");
        }
        Ok(Some(id))
    }

    /// Starts one, in place of any that was started before and came to nothing.
    async fn start(&self, watched: &mut Watched) -> Result<(), CriticalError> {
        let service = watched.instances.service();
        let kept = self.etcd.get(&format!("{KEPT}{service}")).await?;
        let kept = kept.ok_or(CriticalError::NeverSeen)?;
        let spec = self.seal.open(service, &kept.value).ok_or(CriticalError::Sealed)?;
        let mut job: Job = serde_json::from_slice(&spec)?;
        let state = self.leadership.state().map_err(CommitError::from)?;
        if !watched.instances.borrow().instances.is_empty() {
            return Ok(());
        }
        let step = watched.vigil.step(&state, service, &job.limits, Instant::now());
        let (host, remove) = match step {
            Step::Wait => return Ok(()),
            Step::NoRoom => return Err(CriticalError::NoRoom(job.limits.memory)),
            Step::Start { host, instead } => (host, instead),
        };
        job.id = JobId::random();
        job.metadata.insert(META_STAND_IN.into(), service.into());
        let (id, app) = (job.id, job.metadata.get(META_APP_NAME).cloned().unwrap_or_default());
        warn!(job.id = %id, host.id = %host, "there is no {service}: starting {app} as job {id} on host {host}");
        let add = [(host.clone(), vec![job])].into();
        let tx = Tx { term: state.term, add, remove, ..Tx::default() };
        let committed = self.leadership.commit(None, tx).await?;
        match committed.lost.get(&host) {
            Some(reason) => Err(CriticalError::Lost(host, reason.clone())),
            None => Ok(()),
        }
    }

    async fn look(&self, watched: &mut Watched) {
        let set = watched.instances.borrow();
        let sight = match (set.current && !set.stale, set.instances.is_empty()) {
            (false, _) => Sight::Unknown,
            (true, true) => Sight::Absent,
            (true, false) => Sight::There,
        };
        if watched.vigil.look(sight, Instant::now())
            && let Err(err) = self.start(watched).await
        {
            let (error, service) = (&err as &dyn Error, watched.instances.service());
            warn!(error, "there is no {service}, and none can be started now; trying again");
            watched.vigil.failed(Instant::now());
        }
        let Some(leader) = set.leader.as_ref().filter(|_| sight == Sight::There) else { return };
        if watched.kept.is_some_and(|kept| is_of(leader, kept)) {
            return;
        }
        let service = watched.instances.service();
        match self.keep(service, leader).await {
            Ok(kept) => watched.kept = kept,
            Err(err) => warn!(error = &err as &dyn Error, "the spec of {service} is not kept yet"),
        }
    }
}

impl Reconcile for Critical {
    type Error = Infallible;

    async fn reconcile(&mut self) -> Result<(), Infallible> {
        if !self.leadership.leads() {
            self.watched.clear();
            return Ok(());
        }
        if self.watched.is_empty() {
            let watch = |service: &&str| Watched {
                instances: self.leadership.watch(service),
                vigil: Vigil::default(),
                kept: None,
            };
            self.watched = SERVICES.iter().map(watch).collect();
        }
        let mut watched = std::mem::take(&mut self.watched);
        for one in &mut watched {
            self.look(one).await;
        }
        self.watched = watched;
        Ok(())
    }
}

fn is_of(leader: &Leader, job: JobId) -> bool {
    leader.instance.meta.get(META_JOB).and_then(|id| id.parse().ok()) == Some(job)
}

/// A job without what is of this one job only.
fn as_spec(mut job: Job) -> Job {
    job.id = Uuid::nil().into();
    job.restarts = 0;
    job.metadata.remove(META_STAND_IN);
    job
}
