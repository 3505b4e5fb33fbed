//! What must never happen, watched from outside: the oracle keeps its own books and uses none of the code under test.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    cluster::{State, Tx},
    discoverd::Term,
    host::{ActiveJob, Job},
    id::JobId,
};

/// The books.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// The highest term under which each host listed its jobs.
    promised: BTreeMap<usize, Term>,
    /// Where each acknowledged job was put.
    acknowledged: BTreeMap<JobId, usize>,
    /// The jobs a planner was told that a host has, by term and version.
    told: BTreeMap<(Term, String, u64), BTreeSet<JobId>>,
}

type Verdict = Result<(), String>;

fn jobs_of(state: &State, host: &str) -> BTreeSet<JobId> {
    state.hosts.get(host).map(|host| host.jobs.keys().copied().collect()).unwrap_or_default()
}

impl Oracle {
    /// A host listed its jobs for a leader.
    pub(crate) fn promise(&mut self, host: usize, term: Term) {
        let promised = self.promised.entry(host).or_default();
        *promised = term.max(*promised);
    }

    /// A host is about to take a job. `all` are the jobs of every host.
    pub(crate) fn accept(
        &self,
        host: usize,
        term: Term,
        job: &Job,
        all: &[&BTreeMap<JobId, ActiveJob>],
        capacity: u64,
    ) -> Verdict {
        if self.promised.get(&host).is_some_and(|promised| term < *promised) {
            return Err(format!(
                "host{host} takes an order of {term:?} after it promised a later leader not to"
            ));
        }
        if let Some(other) = all.iter().position(|jobs| jobs.contains_key(&job.id)) {
            return Err(format!("job {} is taken by host{host} and was by host{other}", job.id));
        }
        let active = all[host].values().filter(|active| active.status.is_active());
        let memory: u64 = active.map(|active| active.job.limits.memory).sum();
        if memory + job.limits.memory > capacity {
            return Err(format!("host{host} is filled beyond its capacity"));
        }
        Ok(())
    }

    /// A new leader begins to lead: whatever was acknowledged and lives must be in its state.
    pub(crate) fn leads(
        &self,
        state: &State,
        hosts: &BTreeSet<usize>,
        all: &[&BTreeMap<JobId, ActiveJob>],
    ) -> Verdict {
        for (job, &host) in &self.acknowledged {
            let lives = all[host].get(job).is_some_and(|active| active.status.is_active());
            if lives
                && hosts.contains(&host)
                && !jobs_of(state, &format!("host{host}")).contains(job)
            {
                return Err(format!(
                    "a new leader does not know job {job}, which runs on host{host} and was acknowledged"
                ));
            }
        }
        Ok(())
    }

    /// A planner is told the state.
    pub(crate) fn tell(&mut self, state: &State) -> Verdict {
        for (id, host) in &state.hosts {
            let jobs = jobs_of(state, id);
            let before = self.told.insert((state.term, id.clone(), host.version), jobs.clone());
            if before.is_some_and(|before| before != jobs) {
                return Err(format!(
                    "version {} of {id} stands for two different lists of jobs",
                    host.version
                ));
            }
        }
        Ok(())
    }

    /// A transaction happens on this state: it must be the one it was planned on.
    pub(crate) fn commit(&self, tx: &Tx, state: &State) -> Verdict {
        for (id, version) in &tx.based_on {
            let planned = self.told.get(&(tx.term, id.clone(), *version));
            if planned.is_some_and(|planned| *planned != jobs_of(state, id)) {
                return Err(format!(
                    "a transaction happens on {id}, which is not what it was planned on"
                ));
            }
        }
        Ok(())
    }

    /// A job is reported as taken by a host.
    pub(crate) fn acknowledge(
        &mut self,
        job: JobId,
        host: usize,
        jobs: &BTreeMap<JobId, ActiveJob>,
    ) -> Verdict {
        self.acknowledged.insert(job, host);
        if jobs.contains_key(&job) {
            return Ok(());
        }
        Err(format!("job {job} is acknowledged, and host{host} never took it"))
    }
}
