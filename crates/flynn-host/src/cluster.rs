//! Leading the cluster: sampi's state, kept by the one flynn-host that discoverd names the leader.
//!
//! A new leader asks every host for its jobs under its own term before it takes a commit, so that no order of the old
//! one can arrive after the listing. A committed job is acknowledged by its host or reported lost.

mod sweep;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::{
    cluster::{Committed, Rejected, State, Tx},
    discoverd::{Instance, Term},
    host::{ActiveJob, Job},
    id::JobId,
};
use daemon::WorkPanicked;
use discoverd_client::ServiceWatch;
use futures_util::{
    StreamExt,
    future::join_all,
    stream::{self, FuturesUnordered},
};
use sampi::{Cluster, Orders};
use tokio::sync::Notify;
use tracing::warn;

use self::sweep::Watched;
use crate::{
    host::Host,
    jobs::orders::{self, OrderError},
};

/// The service of all hosts.
pub(crate) const SERVICE: &str = "flynn-host";
/// Longest time another host may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Stops that a host is told of at once.
const STOPS: usize = 32;

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
    watched: Mutex<Watched>,
    /// The host that has the data of each volume, while this one leads.
    claims: Mutex<BTreeMap<String, String>>,
    /// To register at once.
    nudged: Notify,
    /// To look at every host at once.
    to_sweep: Notify,
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
    /// A bug of ours.
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
}

impl Leadership {
    pub(crate) fn new(host: Arc<Host>, addr: String, key: String) -> Self {
        let watch = host.announcer.discoverd.watch(SERVICE);
        let (state, watched, claims, nudged, to_sweep) = Default::default();
        Self { host, addr, key, watch, state, watched, claims, nudged, to_sweep }
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

    /// Whether discoverd does not answer: what is known is what it said last.
    pub(crate) fn is_stale(&self) -> bool {
        self.watch.borrow().stale
    }

    /// The whole cluster, asked of the host that leads if it is another.
    pub(crate) async fn state_of_leader(&self) -> Option<State> {
        if let Ok(state) = self.state() {
            return Some(state);
        }
        let addr = {
            let known = self.watch.borrow();
            let leader = &known.leader.as_ref()?.instance;
            // Only a host is given this key.
            leader.meta.contains_key("id").then(|| leader.addr.clone())?
        };
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
        let state = self.lock().as_ref().map(Cluster::state);
        let volumes = self.claims.lock().unwrap_or_else(PoisonError::into_inner).clone();
        state.map(|state| State { volumes, ..state }).ok_or_else(|| self.not_leading())
    }

    /// Does a transaction, and tells every host its part. It is finished, also when whoever asked is gone: its jobs are in
    /// the state from the beginning.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        planner: Option<Term>,
        tx: Tx,
    ) -> Result<Committed, CommitError> {
        let this = self.clone();
        let work = async move { this.transact(planner, tx).await };
        self.host.lifetime.carry_out(work).await?
    }

    async fn transact(&self, planner: Option<Term>, tx: Tx) -> Result<Committed, CommitError> {
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
        let mut committed = Committed { versions: commit.versions, ..Committed::default() };
        for (id, lost) in join_all(dispatched).await {
            if let Some(cluster) = self.lock().as_ref() {
                committed.versions.insert(id.clone(), cluster.version(&id));
            }
            committed.lost.extend(lost.values().next().map(|reason| (id, reason.clone())));
            committed.refused.extend(lost);
        }
        Ok(committed)
    }

    /// Gives a host its orders. Answers which jobs it did not take, and why.
    async fn dispatch(&self, term: Term, id: &str, orders: Orders) -> BTreeMap<JobId, String> {
        let Orders { addr, start, stop } = orders;
        self.stop_all(term, id, &addr, stop).await;
        let mut starting: FuturesUnordered<_> = start
            .iter()
            .map(|job| async { (job.id, self.start(term, id, &addr, job).await) })
            .collect();
        let (mut lost, mut unwanted) = (BTreeMap::new(), Vec::new());
        while let Some((job, started)) = starting.next().await {
            let mut state = self.lock();
            // One that leads anew has asked the host itself.
            let cluster = state.as_mut().filter(|cluster| cluster.term() == term);
            match (started, cluster) {
                (Ok(()), Some(cluster)) => {
                    if !cluster.taken(id, job) {
                        unwanted.push(job);
                    }
                }
                (Ok(()), None) => {}
                (Err(reason), cluster) => {
                    if let Some(cluster) = cluster {
                        cluster.job_ended(id, job);
                    }
                    lost.insert(job, reason);
                }
            }
        }
        self.stop_all(term, id, &addr, unwanted).await;
        lost
    }

    /// Orders stops, together: a host that hangs is waited for once.
    async fn stop_all(&self, term: Term, id: &str, addr: &str, jobs: Vec<JobId>) {
        let stops = stream::iter(jobs)
            .map(|job| async move { (job, self.stop(term, id, addr, job).await) })
            .buffer_unordered(STOPS);
        let told = stops.for_each(|(job, stopped)| {
            if let Err(reason) = stopped {
                // It stays in the state until its host says that it ended.
                warn!(job.id = %job, reason, "a host did not take the order to stop a job");
            }
            std::future::ready(())
        });
        if tokio::time::timeout(ANSWER, told).await.is_err() {
            warn!(host.id = id, "a host did not take every order to stop a job within {ANSWER:?}");
        }
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

    /// A host that discoverd names.
    pub(crate) fn host_of(&self, instance: &Instance) -> host_client::Host {
        self.at(&instance.addr)
    }

    fn at(&self, addr: &str) -> host_client::Host {
        host_client::Host::new(format!("http://{addr}"), Some(self.key.clone()))
    }
}
