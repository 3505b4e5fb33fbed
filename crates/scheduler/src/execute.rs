//! The loop: look, plan, do.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use api::{
    cluster::{Committed, State, Tx},
    discoverd::Term,
    host::Job,
    id::JobId,
};
use daemon::{Lifetime, reconcile::Reconcile};
use host_client::{Cluster, CommitError};
use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::{
    domain::{Plan, plan, reports},
    leadership::Leadership,
    observe::Observed,
    tell::Word,
};

/// Orders that are under way at once.
const ORDERS_AT_ONCE: usize = 256;

/// Longest wait for a host to take its order. One that needs longer is asked what it has.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);

/// While the leading host does not answer it is asked so often.
const ASK_AGAIN: SignedDuration = SignedDuration::from_millis(200);

/// While a host that does not answer is in the cluster's state, that is looked at so often.
const LOST: SignedDuration = SignedDuration::from_secs(1);

/// The scheduler's loop. Everything it acts on is read anew each round.
#[derive(Debug)]
pub struct Scheduler {
    /// What is known.
    pub observed: Arc<Observed>,
    /// Whether to act.
    pub leadership: Leadership,
    /// The leading flynn-host.
    pub cluster: Cluster,
    /// What the controller should be told; nothing while another scheduler leads.
    pub reports: watch::Sender<Option<Word>>,
    /// When to look again at the latest.
    pub alarm: watch::Sender<Option<Timestamp>>,
    /// Jobs that were said to be foreign.
    pub foreign: BTreeSet<JobId>,
    /// Whether the leading flynn-host was said not to answer.
    pub away: bool,
    /// Bounds the orders that are under way.
    pub at_once: Arc<Semaphore>,
    /// Whose the orders are: the loop does not wait for them.
    pub lifetime: Lifetime,
}

impl Reconcile for Scheduler {
    type Error = Infallible;

    async fn reconcile(&mut self) -> Result<(), Infallible> {
        let Some(term) = self.leadership.term() else {
            self.reports.send_if_modified(|reports| reports.take().is_some());
            return Ok(());
        };
        self.observed.begin_look();
        let Some(state) = self.state().await else {
            self.alarm.send_replace(Some(Timestamp::now() + ASK_AGAIN));
            return Ok(());
        };
        let now = Timestamp::now();
        let Some(snapshot) = self.observed.snapshot(&state, Uuid::new_v4(), now) else {
            debug!("too little is known yet to decide anything");
            return Ok(());
        };
        let plan = plan(&snapshot);
        self.warn_of_foreign(&plan);
        self.observed.foreign(&plan.foreign, now);
        self.observed.places(plan.places.clone());
        self.observed.waiting(plan.waiting.clone());
        let reports = Arc::new(reports(&snapshot, &plan));
        self.reports.send_replace(Some(Word { term, reports }));
        let wake_at = plan.wake_at;
        // The leading host will say any moment that it is gone.
        let lost = snapshot.hosts.values().any(|host| !host.connected);
        self.execute(plan, term, now);
        let alarm = [lost.then(|| Timestamp::now() + LOST), wake_at];
        self.alarm.send_replace(alarm.into_iter().flatten().min());
        Ok(())
    }
}

/// One host's part of a plan.
#[derive(Debug, Clone)]
pub struct Part {
    /// The host.
    pub host: String,
    /// Jobs to stop.
    pub stop: Vec<JobId>,
    /// As a transaction, with the jobs to start.
    pub tx: Tx,
}

impl Part {
    /// Jobs to start.
    pub fn start(&self) -> &[Job] {
        self.tx.add.get(&self.host).map_or(&[], Vec::as_slice)
    }

    /// What is left to do when the host is not as it was planned on: stopping needs no room and no version.
    ///
    /// The refusal may be that of a transaction that was delivered twice and happened the first time.
    pub fn refused(self, observed: &Observed, now: Timestamp) -> Option<Self> {
        observed.doubted(self.start(), now);
        let tx = Tx { add: BTreeMap::new(), based_on: BTreeMap::new(), ..self.tx };
        (!self.stop.is_empty()).then_some(Self { tx, ..self })
    }

    /// What is to be remembered of a transaction that happened. Answers whether to look again soon.
    pub fn committed(&self, observed: &Observed, committed: &Committed, now: Timestamp) -> bool {
        let Some(reason) = committed.lost.get(&self.host) else {
            observed.taken(self.start(), now);
            return false;
        };
        if self.start().is_empty() {
            observed.not_stopping(&self.stop);
        }
        observed.doubted(self.start(), now);
        let of_job = |id| committed.refused.get(&id).unwrap_or(reason);
        observed.not_taken(&self.host, self.start(), |id| of_job(id).as_str(), now);
        true
    }

    /// What is to be remembered of a transaction whose answer was lost.
    pub fn unanswered(&self, observed: &Observed, now: Timestamp) {
        observed.not_stopping(&self.stop);
        observed.doubted(self.start(), now);
    }
}

impl Scheduler {
    /// A scheduler that knows nothing yet.
    pub fn new(
        observed: Arc<Observed>,
        leadership: Leadership,
        cluster: Cluster,
        (reports, alarm): (watch::Sender<Option<Word>>, watch::Sender<Option<Timestamp>>),
        lifetime: Lifetime,
    ) -> Self {
        Self {
            observed,
            leadership,
            cluster,
            reports,
            alarm,
            foreign: BTreeSet::new(),
            away: false,
            at_once: Arc::new(Semaphore::new(ORDERS_AT_ONCE)),
            lifetime,
        }
    }

    /// The cluster's state, if the leading flynn-host answers. That it does not is said once.
    async fn state(&mut self) -> Option<State> {
        match self.cluster.state().await {
            Ok(state) => {
                if std::mem::take(&mut self.away) {
                    info!("the leading flynn-host answers again");
                }
                Some(state)
            }
            Err(err) => {
                let error = &err as &dyn std::error::Error;
                if !std::mem::replace(&mut self.away, true) {
                    warn!(error, "the leading flynn-host does not answer; asking until it does");
                }
                None
            }
        }
    }

    /// Begins what a plan says, each host's part by itself, and waits for none: a host that has an order gets the next when
    /// it has answered.
    fn execute(&self, plan: Plan, term: Term, now: Timestamp) {
        for part in parts(plan) {
            if !self.observed.begin_order(&part.host, part.start(), &part.stop, now) {
                continue;
            }
            let (observed, cluster) = (self.observed.clone(), self.cluster.with_term(term));
            let at_once = self.at_once.clone();
            self.lifetime.spawn("order", async move |stop| {
                let (host, jobs) = (part.host.clone(), part.start().iter().map(|job| job.id));
                let jobs: BTreeSet<JobId> = jobs.collect();
                let permit = at_once.acquire_owned().await;
                let short = commit(&cluster, &observed, part).await;
                drop(permit);
                let pause = observed.end_order(&host, &jobs, short, Timestamp::now());
                let Some(pause) = pause else { return };
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = sleep(pause.unsigned_abs()) => observed.nudge.notify_one(),
                }
            });
        }
    }

    fn warn_of_foreign(&mut self, plan: &Plan) {
        for job in plan.foreign.difference(&self.foreign) {
            warn!(job.id = %job, "job {job} is of an app the controller does not list: left alone for now");
        }
        self.foreign.clone_from(&plan.foreign);
    }
}

/// Commits one host's part. Answers whether it fell short.
async fn commit(cluster: &Cluster, observed: &Observed, mut part: Part) -> bool {
    let mut committed = ordered(cluster, &part.tx).await;
    let mut refused = false;
    if let Err(OrderError::Commit(CommitError::Rejected(rejected))) = &committed {
        debug!(host.id = %part.host, "host {} is not as it was planned on: {rejected:?}", part.host);
        refused = true;
        let Some(stops) = part.refused(observed, Timestamp::now()) else { return true };
        part = stops;
        committed = ordered(cluster, &part.tx).await;
    }
    let host = &part.host;
    match committed {
        Ok(committed) => {
            if part.committed(observed, &committed, Timestamp::now()) {
                let reason = &committed.lost[host];
                warn!(host.id = %host, "host {host} did not take its orders: {reason}");
                return true;
            }
            log(&part);
            refused
        }
        Err(err) => {
            let error = &err as &dyn std::error::Error;
            warn!(error, host.id = %host, "a change on host {host} was not made; looking again");
            part.unanswered(observed, Timestamp::now());
            true
        }
    }
}

/// An order was not carried out, or it is not known whether it was.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("it was not answered within {} s", ORDER_TIMEOUT.as_secs())]
    TimedOut,
}

async fn ordered(cluster: &Cluster, tx: &Tx) -> Result<Committed, OrderError> {
    let committed = timeout(ORDER_TIMEOUT, cluster.commit(tx)).await;
    Ok(committed.map_err(|_| OrderError::TimedOut)??)
}

/// A plan cut by host: none waits for another's room.
pub fn parts(mut plan: Plan) -> Vec<Part> {
    let parts = plan.based_on.into_iter().map(|(host, version)| {
        let stop = plan.stop.remove(&host).unwrap_or_default();
        let mut tx = Tx { term: plan.term, ..Tx::default() };
        if let Some(start) = plan.start.remove(&host) {
            tx.based_on.insert(host.clone(), version);
            tx.add.insert(host.clone(), start);
        }
        if !stop.is_empty() {
            tx.remove.insert(host.clone(), stop.clone());
        }
        Part { host, stop, tx }
    });
    parts.collect()
}

fn log(part: &Part) {
    let Part { host, stop, .. } = part;
    for job in part.start() {
        let app = job.metadata.get(api::host::META_APP_NAME).map_or("?", String::as_str);
        let kind = job.metadata.get(api::host::META_TYPE).map_or("?", String::as_str);
        let id = job.id;
        info!(job.id = %id, host.id = %host, "started {app}'s {kind} as job {id} on host {host}");
    }
    for id in stop {
        info!(job.id = %id, host.id = %host, "told job {id} on host {host} to stop");
    }
}

/// Nudges the loop when its alarm goes off.
pub async fn keep_alarm(
    mut alarm: watch::Receiver<Option<Timestamp>>,
    observed: Arc<Observed>,
    stop: CancellationToken,
) {
    loop {
        let at = *alarm.borrow_and_update();
        let left = at.map(|at| at.duration_since(Timestamp::now()));
        let left = left.map(|left| Duration::try_from(left).unwrap_or_default());
        tokio::select! {
            () = stop.cancelled() => return,
            changed = alarm.changed() => if changed.is_err() { return },
            () = sleep(left.unwrap_or_default()), if left.is_some() => {
                observed.nudge.notify_one();
                if alarm.changed().await.is_err() { return }
            }
        }
    }
}
