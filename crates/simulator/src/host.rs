//! A host: its discoverd, its flynn-host with the jobs it knows, and the cluster's state while it leads.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    cluster::{Capacity, Committed, Placed},
    discoverd::{Instance, Term},
    host::{ActiveJob, Job, Status},
    id::JobId,
};
use discoverd::domain::directory::Directory;
use jiff::Timestamp;
use sampi::{Cluster, Moments, Silence, Takeover, placed};

use crate::message::Node;

/// The service of all flynn-hosts.
pub(crate) const HOSTS: &str = "flynn-host";
/// The service of all schedulers.
pub(crate) const SCHEDULERS: &str = "controller-scheduler";
/// Memory of each host, in bytes: room for ten small jobs.
pub(crate) const MEMORY: u64 = 10 << 30;

/// A host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: String,
    /// Whether the machine runs.
    pub(crate) powered: bool,
    /// Whether its flynn-host runs.
    pub(crate) up: bool,
    /// Since when it does not.
    pub(crate) down_since: u64,
    /// Counts starts of the flynn-host.
    pub(crate) life: u32,
    /// Counts starts of the machine.
    pub(crate) boot: u32,
    /// On disk: the highest term obeyed, and the jobs.
    pub(crate) highest: Term,
    pub(crate) jobs: BTreeMap<JobId, ActiveJob>,
    /// What its discoverd knows, and how many facts that is.
    pub(crate) directory: Directory,
    pub(crate) heard: usize,
    pub(crate) leading: Leading,
    /// Questions it asked as the leader.
    pub(crate) calls: BTreeMap<u64, Call>,
    /// Transactions whose orders are under way.
    pub(crate) commits: BTreeMap<u64, UnderWay>,
    /// Who does not answer it as the leader.
    pub(crate) silence: Silence,
    pub(crate) moments: Moments,
    /// The listing it is at: who was asked, when, and who answered.
    pub(crate) asking: Asking,
}

/// What a flynn-host is to the cluster.
#[derive(Debug, Default)]
pub(crate) enum Leading {
    #[default]
    No,
    /// It hears every host first.
    Takeover {
        takeover: Box<Takeover>,
        waiting: BTreeSet<u64>,
    },
    Yes(Box<Cluster>),
}

/// A round of listings.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    pub(crate) at: u64,
    pub(crate) named: BTreeSet<usize>,
    pub(crate) answered: BTreeSet<usize>,
}

/// A question of the leader's.
#[derive(Debug)]
pub(crate) enum Call {
    List { host: usize, as_of: u64 },
    Start { host: usize, job: JobId, commit: u64 },
    Stop { host: usize, commit: u64 },
}

/// A transaction whose orders are under way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    pub(crate) asker: Node,
    pub(crate) call: u64,
    pub(crate) committed: Committed,
    pub(crate) starts: Vec<(usize, JobId)>,
    pub(crate) waiting: usize,
}

/// Name of a host.
pub(crate) fn name(host: usize) -> String {
    format!("host{host}")
}

/// The number in a host's name.
pub(crate) fn number(id: &str) -> Option<usize> {
    id.strip_prefix("host")?.parse().ok()
}

impl Host {
    pub(crate) fn new(n: usize) -> Self {
        Self {
            id: name(n),
            powered: true,
            up: true,
            down_since: 0,
            life: 0,
            boot: 0,
            highest: Term::default(),
            jobs: BTreeMap::new(),
            directory: Directory::default(),
            heard: 0,
            leading: Leading::No,
            calls: BTreeMap::new(),
            commits: BTreeMap::new(),
            silence: Silence::default(),
            moments: Moments::default(),
            asking: Asking::default(),
        }
    }

    pub(crate) fn capacity() -> Capacity {
        Capacity { memory: MEMORY, cpu: 4000, addresses: 500 }
    }

    pub(crate) fn instance(&self) -> Instance {
        let addr = format!("10.0.0.{}:1113", number(&self.id).unwrap_or_default() + 1);
        Instance::new("http", &addr, [("id".to_owned(), self.id.clone())].into())
    }

    pub(crate) fn active(&self) -> impl Iterator<Item = &ActiveJob> {
        self.jobs.values().filter(|job| job.status.is_active())
    }

    /// As it lists its jobs.
    pub(crate) fn listing(&self) -> BTreeMap<JobId, Placed> {
        self.active().map(|active| (active.job.id, placed(&active.job))).collect()
    }

    /// The term under which it shall lead, if its discoverd says so.
    pub(crate) fn shall_lead(&self) -> Option<Term> {
        let leader = self.directory.leader(HOSTS)?;
        (leader.instance.meta.get("id") == Some(&self.id)).then_some(leader.term)
    }

    /// The hosts its discoverd names.
    pub(crate) fn named(&self) -> BTreeSet<usize> {
        let hosts =
            self.directory.service(HOSTS).into_iter().flat_map(|service| service.instances());
        hosts.filter_map(|held| number(held.instance.meta.get("id")?)).collect()
    }

    /// Takes a job, or says why not: the production rules on what is known, room and terms.
    pub(crate) fn judge(&self, term: Term, job: &Job) -> Result<(Term, bool), String> {
        let obeyed = sampi::obey(self.highest, term).ok_or("the leader's term is over")?;
        match self.jobs.get(&job.id) {
            Some(known) if known.job == *job => return Ok((obeyed, false)),
            Some(_) => return Err("another job has this id".into()),
            None => {}
        }
        let present = self.active().map(|active| &active.job.limits);
        if !sampi::has_room(&Self::capacity(), present, &job.limits) {
            return Err("no room".into());
        }
        Ok((obeyed, true))
    }

    pub(crate) fn take(&mut self, job: Job, now: Timestamp) {
        let active = ActiveJob {
            host_id: self.id.clone(),
            container_id: String::new(),
            internal_ip: None,
            status: Status::Starting,
            created_at: now,
            started_at: None,
            ended_at: None,
            exit_status: None,
            error: None,
            end_reason: None,
            host_restarts: 0,
            job,
        };
        self.jobs.insert(active.job.id, active);
    }
}
