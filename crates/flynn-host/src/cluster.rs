//! Leading the cluster: sampi's state, kept by the one flynn-host that discoverd names the leader.
//!
//! A new leader asks every host for its jobs under its own term before it takes a commit, so that no order of the old
//! one can arrive after the listing. A committed job is acknowledged by its host or reported lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::{
    cluster::{Committed, Placed, Rejected, State, TAG_FULL, Tx},
    discoverd::{Instance, Term},
    host::{ActiveJob, Job},
    id::JobId,
};
use discoverd_client::ServiceWatch;
use futures_util::{
    StreamExt,
    future::join_all,
    stream::{self, FuturesUnordered},
};
use sampi::{Cluster, HostInfo, Orders, Takeover, placed};
use tokio::{
    sync::{Notify, broadcast::error::RecvError},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    host::Host,
    jobs::orders::{self, OrderError},
};

/// The service of all hosts.
pub(crate) const SERVICE: &str = "flynn-host";
/// Heartbeat, and how often every host is listed again.
const SWEEP: Duration = Duration::from_secs(3);
/// Longest time another host may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Hosts that are listed at once.
const LISTINGS: usize = 64;

/// The hosts that discoverd names, by id.
pub(crate) type Hosts = BTreeMap<String, Instance>;

/// What this host knows of leading.
#[derive(Debug)]
pub(crate) struct Leadership {
    host: Arc<Host>,
    addr: String,
    key: String,
    watch: ServiceWatch,
    state: Mutex<Option<Cluster>>,
    nudged: Notify,
}

/// Another host leads, or nobody.
#[derive(Debug, thiserror::Error)]
#[error("this host does not lead the cluster; {leader}")]
pub(crate) struct NotLeading {
    leader: String,
}

/// A transaction did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// Ask the leader.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// The state is another.
    #[error("the transaction was refused")]
    Rejected(Rejected),
}

impl Leadership {
    pub(crate) fn new(host: Arc<Host>, addr: String, key: String) -> Self {
        let watch = host.announcer.discoverd.watch(SERVICE);
        Self { host, addr, key, watch, state: Mutex::default(), nudged: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Cluster>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this host leads and is ready to.
    pub(crate) fn leads(&self) -> bool {
        self.lock().is_some()
    }

    /// The hosts that are there, if this one leads.
    pub(crate) fn present(&self) -> Option<BTreeSet<String>> {
        let known = self.watch.borrow();
        let ids = known.instances.values().filter_map(|instance| instance.meta.get("id").cloned());
        (self.leads() && !known.stale).then(|| ids.collect())
    }

    /// The hosts that are there, by id, and the one that leads.
    pub(crate) fn known(&self) -> (Hosts, Option<String>) {
        let known = self.watch.borrow();
        let named = known.instances.values();
        let hosts = named.filter_map(|one| Some((one.meta.get("id")?.clone(), one.clone())));
        let leader =
            known.leader.as_ref().and_then(|leader| leader.instance.meta.get("id").cloned());
        (hosts.collect(), leader)
    }

    /// The whole cluster, asked of the host that leads if it is another.
    pub(crate) async fn state_of_leader(&self) -> Option<State> {
        if let Ok(state) = self.state() {
            return Some(state);
        }
        let addr = self.watch.borrow().leader.as_ref()?.instance.addr.clone();
        let leader = host_client::Cluster::new(format!("http://{addr}"), Some(self.key.clone()));
        tokio::time::timeout(ANSWER, leader.state()).await.ok()?.ok()
    }

    /// Something about this host has changed.
    pub(crate) fn nudge(&self) {
        self.nudged.notify_one();
    }

    fn not_leading(&self) -> NotLeading {
        let leader = match &self.watch.borrow().leader {
            Some(leader) => format!("ask the one at {}", leader.instance.addr),
            None => "no host does at the moment; try again".into(),
        };
        NotLeading { leader }
    }

    /// The whole cluster.
    pub(crate) fn state(&self) -> Result<State, NotLeading> {
        self.lock().as_ref().map(Cluster::state).ok_or_else(|| self.not_leading())
    }

    /// Does a transaction, and tells every host its part.
    pub(crate) async fn commit(
        &self,
        planner: Option<Term>,
        tx: Tx,
    ) -> Result<Committed, CommitError> {
        let (term, commit) = {
            let mut state = self.lock();
            let cluster = state.as_mut().ok_or_else(|| self.not_leading())?;
            if let Some(planner) = planner {
                cluster.obey(planner).map_err(CommitError::Rejected)?;
            }
            (cluster.term(), cluster.commit(tx).map_err(CommitError::Rejected)?)
        };
        let dispatched = commit.dispatch.into_iter().map(|(id, orders)| async move {
            let lost = self.dispatch(term, &id, orders).await;
            (id, lost)
        });
        let mut committed = Committed { versions: commit.versions, lost: BTreeMap::new() };
        for (id, lost) in join_all(dispatched).await {
            if let Some(cluster) = self.lock().as_ref() {
                committed.versions.insert(id.clone(), cluster.version(&id));
            }
            committed.lost.extend(lost.map(|reason| (id, reason)));
        }
        Ok(committed)
    }

    /// Gives a host its orders. Answers why it did not take them all, if it did not.
    async fn dispatch(&self, term: Term, id: &str, orders: Orders) -> Option<String> {
        let Orders { addr, start, stop } = orders;
        let mut lost = None;
        for job in stop {
            if let Err(reason) = self.stop(term, id, &addr, job).await {
                // It stays in the state until its host says that it ended.
                warn!(job.id = %job, reason, "a host did not take the order to stop a job");
            }
        }
        let mut starting: FuturesUnordered<_> = start
            .iter()
            .map(|job| async { (job.id, self.start(term, id, &addr, job).await) })
            .collect();
        while let Some((job, started)) = starting.next().await {
            let mut state = self.lock();
            match (started, state.as_mut()) {
                (Ok(()), Some(cluster)) => _ = cluster.taken(id, job),
                (Err(reason), cluster) => {
                    if let Some(cluster) = cluster {
                        cluster.job_ended(id, job);
                    }
                    lost = Some(reason);
                }
                (Ok(()), None) => {}
            }
        }
        lost
    }

    async fn start(&self, term: Term, id: &str, addr: &str, job: &Job) -> Result<(), String> {
        if id == self.host.settings.id {
            return orders::accept(&self.host, Some(term), job.clone())
                .await
                .map_err(|err| err.to_string());
        }
        let other = self.at(addr).with_term(term);
        tokio::time::timeout(ANSWER, other.put_job(job))
            .await
            .map_err(|_| format!("{id} did not answer within {ANSWER:?}"))?
            .map_err(|err| err.to_string())
    }

    async fn stop(&self, term: Term, id: &str, addr: &str, job: JobId) -> Result<(), String> {
        if id == self.host.settings.id {
            return match orders::stop(&self.host, job) {
                Err(OrderError::Unknown(_)) => {
                    if let Some(cluster) = self.lock().as_mut() {
                        cluster.job_ended(id, job);
                    }
                    Ok(())
                }
                done => done.map_err(|err| err.to_string()),
            };
        }
        let other = self.at(addr).with_term(term);
        tokio::time::timeout(ANSWER, other.stop_job(job))
            .await
            .map_err(|_| format!("{id} did not answer within {ANSWER:?}"))?
            .or_else(|err| if err.is_not_found() { Ok(()) } else { Err(err.to_string()) })
    }

    /// The jobs a host knows, by its own word.
    pub(crate) async fn jobs_at(&self, instance: &Instance) -> Option<BTreeMap<JobId, ActiveJob>> {
        tokio::time::timeout(ANSWER, self.at(&instance.addr).jobs()).await.ok()?.ok()
    }

    /// A job of a host, by that host's own word.
    pub(crate) async fn job_at(&self, host: &str, id: JobId) -> Option<Job> {
        if host == self.host.settings.id {
            return self.host.registry.job(id).map(|active| active.job.clone());
        }
        let one = self.at(&self.known().0.get(host)?.addr);
        Some(tokio::time::timeout(ANSWER, one.job(id)).await.ok()?.ok()?.job)
    }

    /// Watches another service.
    pub(crate) fn watch(&self, service: &str) -> ServiceWatch {
        self.host.announcer.discoverd.watch(service)
    }

    /// The host with that address on the job network.
    pub(crate) fn host_at(&self, gateway: Ipv4Addr) -> host_client::Host {
        let port = self.addr.rsplit(':').next().unwrap_or_default();
        self.at(&format!("{gateway}:{port}"))
    }

    fn at(&self, addr: &str) -> host_client::Host {
        host_client::Host::new(format!("http://{addr}"), Some(self.key.clone()))
    }

    /// Keeps this host registered, and the state while it leads.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = interval(SWEEP);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = self.watch.clone();
        let mut events = self.host.registry.subscribe().events;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                event = events.recv() => {
                    match event {
                        Ok(event) => self.note(event.job),
                        Err(RecvError::Lagged(_)) => self.sweep().await,
                        Err(RecvError::Closed) => return,
                    }
                    continue;
                }
                () = watch.changed() => {}
                () = self.nudged.notified() => self.register().await,
                _ = tick.tick() => self.register().await,
            }
            self.sweep().await;
        }
    }

    /// A job of this host that ended holds no room any more.
    fn note(&self, job: Option<ActiveJob>) {
        if let (Some(job), Some(cluster)) = (job, self.lock().as_mut())
            && !job.status.is_active()
        {
            cluster.job_ended(&self.host.settings.id, job.job.id);
        }
    }

    async fn register(&self) {
        let settings = &self.host.settings;
        let mut tags = self.host.file.lock().unwrap_or_else(PoisonError::into_inner).tags.clone();
        tags.remove(TAG_FULL);
        if self.host.is_full() {
            tags.insert(TAG_FULL.into(), "yes".into());
        }
        let mut meta: BTreeMap<String, String> =
            tags.into_iter().map(|(name, value)| (format!("tag:{name}"), value)).collect();
        meta.insert("id".into(), settings.id.clone());
        meta.insert("BOOT_ID".into(), settings.boot_id.clone());
        let instance = Instance::new("http", &self.addr, meta);
        if let Err(err) = self.host.announcer.discoverd.register(SERVICE, &instance).await {
            warn!(error = &err as &dyn Error, "this host could not be registered; trying again");
        }
    }

    /// Makes the state be what the hosts say, if this host leads.
    async fn sweep(&self) {
        let known = self.watch.borrow();
        let own = &self.host.settings.id;
        let leader = known.leader.as_ref().filter(|l| l.instance.meta.get("id") == Some(own));
        let Some(leader) = leader else {
            // While discoverd is away its last word stands.
            if !known.stale && self.lock().take().is_some() {
                info!("this host leads no more");
            }
            return;
        };
        let term = leader.term;
        let named = known.instances.values();
        let hosts: Hosts = named
            .filter_map(|instance| Some((instance.meta.get("id")?.clone(), instance.clone())))
            .collect();
        let as_of = match self.lock().as_ref() {
            Some(cluster) if cluster.term() == term => Some(cluster.moment()),
            _ => None,
        };
        let listings: Vec<_> = hosts
            .iter()
            .map(|(id, instance)| async move {
                // One that died does not answer, and the others are not to wait for that.
                let listed = tokio::select! {
                    listed = self.listing(term, id, instance, as_of.unwrap_or(0)) => listed,
                    () = self.until_gone(id) => Err("it is gone".into()),
                };
                (id.as_str(), listed)
            })
            .collect();
        let listings: Vec<_> = stream::iter(listings).buffer_unordered(LISTINGS).collect().await;
        let mut heard = Vec::new();
        for (id, listing) in listings {
            match listing {
                Ok(info) => heard.push((id, info)),
                Err(reason) => warn!(host.id = %id, reason, "a host cannot be listed"),
            }
        }
        match as_of {
            Some(_) => self.bring_up_to_date(&hosts, heard),
            None => self.take_over(term, &hosts, heard),
        }
    }

    /// Waits until discoverd names a host no more.
    async fn until_gone(&self, id: &str) {
        let mut watch = self.watch.clone();
        let is_there = |watch: &ServiceWatch| {
            let known = watch.borrow();
            known
                .instances
                .values()
                .any(|instance| instance.meta.get("id").is_some_and(|i| i == id))
        };
        while is_there(&watch) {
            watch.changed().await;
        }
    }

    /// Leads from now on, if every host was heard.
    fn take_over(&self, term: Term, hosts: &Hosts, heard: Vec<(&str, HostInfo)>) {
        let mut takeover = Takeover::new(term, u64::from(rand::random::<u32>()) << 20);
        for (id, info) in heard {
            doubled(&takeover.heard(id, info));
        }
        match takeover.finish(hosts.keys().map(String::as_str)) {
            Ok(cluster) => {
                *self.lock() = Some(cluster);
                info!("this host leads, with term {}", term.to_header());
            }
            Err(takeover) => {
                let missing = takeover.missing(hosts.keys().map(String::as_str)).join(", ");
                warn!("this host is to lead, and waits until {missing} answered or is gone");
            }
        }
    }

    fn bring_up_to_date(&self, hosts: &Hosts, heard: Vec<(&str, HostInfo)>) {
        let mut state = self.lock();
        let Some(cluster) = state.as_mut() else { return };
        for (id, info) in heard {
            doubled(&cluster.upsert_host(id, info));
        }
        let known = cluster.state().hosts.into_keys();
        for id in known.filter(|id| !hosts.contains_key(id)) {
            cluster.remove_host(&id);
        }
    }

    async fn listing(
        &self,
        term: Term,
        id: &str,
        instance: &Instance,
        as_of: u64,
    ) -> Result<HostInfo, String> {
        let (capacity, jobs) = if id == self.host.settings.id {
            orders::promise(&self.host, term).await.map_err(|err| err.to_string())?;
            (self.host.capacity(), self.host.registry.active())
        } else {
            let other = self.at(&instance.addr).with_term(term);
            let asked = async { tokio::try_join!(other.status(), other.jobs()) };
            let answered = tokio::time::timeout(ANSWER, asked).await;
            let answered = answered.map_err(|_| format!("no answer within {ANSWER:?}"))?;
            let (status, jobs) = answered.map_err(|err| err.to_string())?;
            (status.capacity, jobs.into_values().collect::<Vec<_>>())
        };
        let active = jobs.into_iter().filter(|job| job.status.is_active());
        let jobs: BTreeMap<JobId, Placed> =
            active.map(|job| (job.job.id, placed(&job.job))).collect();
        let tags = instance.meta.iter().filter_map(|(name, value)| {
            Some((name.strip_prefix("tag:")?.to_owned(), value.clone()))
        });
        let (addr, tags) = (instance.addr.clone(), tags.collect());
        Ok(HostInfo { addr, tags, capacity, jobs, as_of })
    }
}

fn doubled(jobs: &[JobId]) {
    for job in jobs {
        warn!(job.id = %job, "a job runs on two hosts; both keep it until its scheduler decides");
    }
}
