//! A scheduler: its production parts, called one after another, and the CPU time of each.

use std::time::Duration;

use anyhow::ensure;
use api::{
    cluster::Committed,
    controller::ExpandedFormation,
    host::{ActiveJob, Event, EventKind, Job, Status},
};
use sampi::Cluster;
use scheduler::{
    domain::plan,
    execute::{Part, parts},
    observe::Observed,
};
use uuid::Uuid;

use super::world::{NOW, Size, host_name};
use crate::usage::thread_cpu;

/// CPU time of a scheduler's work.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    /// From the cluster's state and what the hosts told to a snapshot.
    pub(super) observing: Duration,
    /// From the snapshot to transactions.
    pub(super) planning: Duration,
    /// sampi's.
    pub(super) committing: Duration,
}

impl Spent {
    /// Planning and committing: what grows with what is placed.
    pub(super) fn placing(self) -> Duration {
        self.planning + self.committing
    }

    pub(super) fn whole(self) -> Duration {
        self.observing + self.placing()
    }
}

/// Does something and books its CPU time.
pub(super) fn booked<T>(spent: &mut Duration, act: impl FnOnce() -> T) -> anyhow::Result<T> {
    let before = thread_cpu()?;
    let done = act();
    *spent += thread_cpu()?.saturating_sub(before);
    Ok(done)
}

/// Commits one host's part as the leader does whose orders are all carried out; `None` if it is refused.
pub(super) fn commit(cluster: &mut Cluster, part: &mut Part) -> Option<Committed> {
    let tx = std::mem::take(&mut part.tx);
    let mut commit = cluster.commit(tx).ok()?;
    let start = commit.dispatch.remove(&part.host).unwrap_or_default().start;
    for job in &start {
        cluster.taken(&part.host, job.id);
    }
    part.tx.add.insert(part.host.clone(), start);
    Some(Committed { versions: commit.versions, ..Committed::default() })
}

/// A scheduler that every host tells of its jobs.
pub(super) struct Planner {
    observed: Observed,
    rounds: u128,
    pub(super) spent: Spent,
}

impl Planner {
    pub(super) fn new(size: &Size, life: u128) -> anyhow::Result<Self> {
        let observed = Observed::new(Uuid::from_u128(life));
        observed.listed(Vec::new())?;
        for host in (0..size.hosts).map(host_name) {
            observed.opened(&host);
            observed.told(&host, Event { event: EventKind::Synced, job: None }, NOW);
        }
        Ok(Self { observed, rounds: life << 64, spent: Spent::default() })
    }

    pub(super) fn want(&self, formations: Vec<ExpandedFormation>) {
        formations.into_iter().for_each(|formation| self.observed.changed(formation));
    }

    /// What to do about the cluster as it is.
    pub(super) fn plan(&mut self, cluster: &Cluster) -> anyhow::Result<Vec<Part>> {
        self.rounds += 1;
        let seed = Uuid::from_u128(self.rounds);
        let observed = &self.observed;
        observed.begin_look();
        let snapshot =
            booked(&mut self.spent.observing, || observed.snapshot(&cluster.state(), seed, NOW))?;
        let snapshot = snapshot.expect("every host and the controller have told everything");
        let (waiting, parts) = booked(&mut self.spent.planning, || {
            let plan = plan(&snapshot);
            (plan.waiting.len(), parts(plan))
        })?;
        ensure!(waiting == 0, "{waiting} jobs found no room");
        Ok(parts)
    }

    /// What is to be remembered of a part that happened, or was refused. Answers with the jobs that were taken.
    pub(super) fn learn(&self, mut part: Part, committed: Option<Committed>) -> Option<Vec<Job>> {
        let Some(committed) = committed else {
            part.refused(&self.observed, NOW);
            return None;
        };
        part.committed(&self.observed, &committed, NOW);
        part.tx.add.remove(&part.host)
    }

    /// A host tells that jobs run.
    pub(super) fn told(&self, host: &str, jobs: Vec<Job>) {
        for job in jobs {
            let active = ActiveJob {
                job,
                host_id: host.into(),
                container_id: String::new(),
                internal_ip: None,
                status: Status::Running,
                created_at: NOW,
                started_at: Some(NOW),
                ended_at: None,
                exit_status: None,
                error: None,
                end_reason: None,
                host_restarts: 0,
            };
            self.observed.told(host, Event { event: EventKind::Up, job: Some(active) }, NOW);
        }
    }
}
