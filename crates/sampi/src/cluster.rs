//! The state machine.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use api::{
    cluster::{Capacity, HostState, Placed, Refusal, Rejected, State, Tx},
    discoverd::Term,
    host::Job,
    id::JobId,
};

use crate::Room;

/// The shared state of the cluster under one leader.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    term: Term,
    /// Highest term of a planner that was obeyed.
    planner: Term,
    hosts: BTreeMap<String, Host>,
    /// Where each job is: a job is on one host only.
    places: HashMap<JobId, String>,
    /// Counts orders and acknowledgements.
    moment: u64,
    /// Orders that are under way, and the moment at which each was given.
    under_way: HashMap<JobId, u64>,
    /// The version given last: none stands for two lists of jobs, also when a host goes and comes back.
    version: u64,
}

#[derive(Debug, Clone)]
struct Host {
    /// Shared with whoever looks at it.
    state: Arc<HostState>,
    /// What its jobs leave of its capacity.
    room: Room,
    /// The moment at which each job was acknowledged; absent while its order is under way.
    taken: HashMap<JobId, u64>,
}

/// What a host says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInfo {
    /// Address of its flynn-host, `ip:1113`.
    pub addr: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// What it offers.
    pub capacity: Capacity,
    /// The jobs that hold room on it; see [`placed`].
    pub jobs: BTreeMap<JobId, Placed>,
    /// [`Cluster::moment`] before this listing was begun: what was acknowledged later may be missing in it.
    pub as_of: u64,
}

/// A transaction that happened: what to tell which host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// Versions of the hosts it touched.
    pub versions: BTreeMap<String, u64>,
    /// Orders by host id.
    pub dispatch: BTreeMap<String, Orders>,
}

/// Orders to one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orders {
    /// Address of its flynn-host.
    pub addr: String,
    /// Jobs to start. Report each with [`Cluster::taken`] or [`Cluster::job_ended`].
    pub start: Vec<Job>,
    /// Jobs to stop. They hold their room until [`Cluster::job_ended`].
    pub stop: Vec<JobId>,
}

/// A job as the state counts it.
pub fn placed(job: &Job) -> Placed {
    Placed { metadata: job.metadata.clone(), limits: job.limits.clone() }
}

impl Cluster {
    /// An empty state. Before it serves commits its leader must have heard every host.
    ///
    /// Versions are counted up from `version`. A leader that begins anew under its old term must give none a second time,
    /// or a plan made before would pass: let it be drawn at random from a wide range.
    pub fn new(term: Term, version: u64) -> Self {
        Self { term, version, ..Self::default() }
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// The term of the leader that keeps this state.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Now, for [`HostInfo::as_of`].
    pub fn moment(&self) -> u64 {
        self.moment
    }

    /// A host's version; 0 if it is not known.
    pub fn version(&self, host: &str) -> u64 {
        self.hosts.get(host).map_or(0, |host| host.state.version)
    }

    /// The whole state.
    pub fn state(&self) -> State {
        let hosts = self.hosts.iter().map(|(id, host)| (id.clone(), host.state.clone()));
        State { term: self.term, hosts: hosts.collect(), volumes: BTreeMap::new() }
    }

    /// Adds a host or brings it up to date with its own listing.
    ///
    /// Jobs that are not in the listing are gone, except those whose order is under way and those that were taken
    /// after the listing was begun. Answers the listed jobs that are on another host: this one must stop them.
    pub fn upsert_host(&mut self, id: &str, info: HostInfo) -> Vec<JobId> {
        let HostInfo { addr, tags, capacity, jobs: listed, as_of } = info;
        let known = self.hosts.remove(id);
        let before = known.as_ref().map(|host| host.state.clone());
        let (version, old, mut taken) = match known {
            Some(Host { state, taken, .. }) => (state.version, state.jobs.clone(), taken),
            None => (0, BTreeMap::new(), HashMap::new()),
        };
        let mut jobs = BTreeMap::new();
        for (job, placed) in old {
            // It is under way, or was acknowledged after the listing was begun.
            let newer = taken.get(&job).is_none_or(|&at| at > as_of);
            if listed.contains_key(&job) || newer {
                jobs.insert(job, placed);
            } else {
                taken.remove(&job);
                self.places.remove(&job);
            }
        }
        let mut elsewhere = Vec::new();
        for (job, placed) in listed {
            if self.places.get(&job).is_some_and(|place| place != id) {
                elsewhere.push(job);
                continue;
            }
            self.places.insert(job, id.into());
            self.under_way.remove(&job);
            taken.entry(job).or_insert(as_of);
            jobs.insert(job, placed);
        }
        let mut state = HostState { version, addr, tags, capacity, jobs };
        if before.as_deref() != Some(&state) {
            state.version = self.next_version();
        }
        let room = Room::of(&state);
        self.hosts.insert(id.into(), Host { state: Arc::new(state), room, taken });
        elsewhere
    }

    /// Forgets a host with all its jobs; answers them.
    pub fn remove_host(&mut self, id: &str) -> BTreeMap<JobId, Placed> {
        let host = self.hosts.remove(id).map(|host| Arc::unwrap_or_clone(host.state));
        let jobs = host.map(|host| host.jobs).unwrap_or_default();
        for job in jobs.keys() {
            self.places.remove(job);
            self.under_way.remove(job);
        }
        jobs
    }

    /// A job is no more: it ended, or its host did not take it. Answers whether it was there.
    pub fn job_ended(&mut self, host: &str, job: JobId) -> bool {
        let Some(host) = self.hosts.get_mut(host) else { return false };
        let known = host.state.jobs.contains_key(&job);
        if known {
            self.version += 1;
            let state = Arc::make_mut(&mut host.state);
            state.jobs.remove(&job);
            state.version = self.version;
            // Not given back: jobs may have taken more than there was.
            host.room = Room::of(&host.state);
            host.taken.remove(&job);
            self.places.remove(&job);
            self.under_way.remove(&job);
        }
        known
    }

    /// A host has acknowledged a job. Answers whether the job is still wanted there; if not, it must be stopped.
    pub fn taken(&mut self, host: &str, job: JobId) -> bool {
        let Some(host) = self.hosts.get_mut(host) else { return false };
        let wanted = host.state.jobs.contains_key(&job);
        if wanted {
            self.moment += 1;
            host.taken.insert(job, self.moment);
            self.under_way.remove(&job);
        }
        wanted
    }

    /// Gives up the orders that were given up to a moment and of which nothing was heard: from now on a host's listing
    /// says whether it took them. Whoever gave them should have reported each long ago, and may have died over it.
    pub fn give_up_orders(&mut self, until: u64) {
        // A planted bug, which the simulator must find: they hold their room for good.
        if cfg!(feature = "plant-keep-orders") {
            return;
        }
        let old: Vec<(JobId, u64)> = self
            .under_way
            .iter()
            .filter(|(_, at)| **at <= until)
            .map(|(id, at)| (*id, *at))
            .collect();
        for (job, at) in old {
            self.under_way.remove(&job);
            let host = self.places.get(&job).and_then(|place| self.hosts.get_mut(place));
            if let Some(host) = host {
                host.taken.entry(job).or_insert(at);
            }
        }
    }

    /// Whether a planner with this term may still commit. Call it before [`Cluster::commit`] if the planner said its
    /// term; from then on nobody with a lower one is obeyed.
    pub fn obey(&mut self, planner: Term) -> Result<(), Rejected> {
        if planner < self.planner {
            return Err(whole(Refusal::OldTerm));
        }
        self.planner = planner;
        Ok(())
    }

    /// Does all of a transaction, or nothing.
    pub fn commit(&mut self, tx: Tx) -> Result<Commit, Rejected> {
        if tx.term != self.term {
            return Err(whole(Refusal::OldTerm));
        }
        let hosts = self.refusals(&tx);
        if hosts.is_empty() { Ok(self.apply(tx)) } else { Err(Rejected { hosts }) }
    }

    fn refusals(&self, tx: &Tx) -> BTreeMap<String, Refusal> {
        let mut refusals = BTreeMap::new();
        let named = tx.based_on.keys().chain(tx.add.keys()).chain(tx.remove.keys());
        for id in named {
            match (self.hosts.get(id), tx.based_on.get(id)) {
                (None, _) => _ = refusals.insert(id.clone(), Refusal::Gone),
                // Unless it is the planted bug, which the simulator must find.
                (Some(host), Some(&version))
                    if host.state.version != version && !cfg!(feature = "plant-skip-version") =>
                {
                    refusals.insert(id.clone(), Refusal::Changed);
                }
                _ => {}
            }
        }
        let mut seen = HashSet::new();
        for (id, jobs) in &tx.add {
            let Some(host) = self.hosts.get(id).filter(|_| !refusals.contains_key(id)) else {
                continue;
            };
            let mut room = host.room;
            for job in jobs {
                let refusal = if self.places.contains_key(&job.id) || !seen.insert(job.id) {
                    Refusal::Duplicate
                } else if !room.fits(&job.limits) {
                    Refusal::NoRoom
                } else {
                    room.take(&job.limits);
                    continue;
                };
                refusals.entry(id.clone()).or_insert(refusal);
            }
        }
        refusals
    }

    fn apply(&mut self, tx: Tx) -> Commit {
        let mut commit = Commit::default();
        self.moment += 1;
        for (id, jobs) in tx.add {
            let host =
                self.hosts.get_mut(&id).expect("a transaction on a host that is gone is refused");
            let state = Arc::make_mut(&mut host.state);
            for job in &jobs {
                host.room.take(&job.limits);
                state.jobs.insert(job.id, placed(job));
                self.places.insert(job.id, id.clone());
                self.under_way.insert(job.id, self.moment);
            }
            host.orders(&id, &mut commit).start = jobs;
        }
        for (id, jobs) in tx.remove {
            let host =
                self.hosts.get_mut(&id).expect("a transaction on a host that is gone is refused");
            host.orders(&id, &mut commit).stop = jobs;
        }
        for id in commit.dispatch.keys() {
            let host = self.hosts.get_mut(id).expect("orders are for known hosts");
            self.version += 1;
            Arc::make_mut(&mut host.state).version = self.version;
            commit.versions.insert(id.clone(), self.version);
        }
        commit
    }
}

impl Host {
    fn orders<'a>(&self, id: &str, commit: &'a mut Commit) -> &'a mut Orders {
        let fresh = || Orders { addr: self.state.addr.clone(), ..Orders::default() };
        commit.dispatch.entry(id.into()).or_insert_with(fresh)
    }
}

fn whole(refusal: Refusal) -> Rejected {
    Rejected { hosts: [(String::new(), refusal)].into() }
}
