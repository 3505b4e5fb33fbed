//! The router that orders: one at a time, as long as its lease lasts. Another one goes on where it left off.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use keyspace::Lease;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    failure::{Ended, Failure},
    known::Known,
    order::Orders,
    plan::{self, Step},
    probe::Probe,
    records::{Lead, Records},
};

/// The lease of the router that orders ends so long after it was last renewed.
const LEASE: Duration = Duration::from_secs(10);
/// How often it is renewed.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(2500);
/// How often it is looked for what has become due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before it is tried again to become the one that orders.
const CLAIM_PAUSE: Duration = Duration::from_secs(1);
/// Names that something is done about at once.
const AT_ONCE: usize = 8;
/// A name is left alone so long after etcd could not be told what became of it.
const COOLING: Duration = Duration::from_secs(10);

/// What orders are made with, whoever leads.
#[derive(Debug, Clone)]
pub(crate) struct Orderer {
    pub(crate) records: Records,
    pub(crate) http: reqwest::Client,
    pub(crate) directory: String,
    pub(crate) contact: Vec<String>,
    pub(crate) probe: Probe,
}

/// Until when nothing new is done about a name.
#[derive(Debug, Clone, Copy)]
enum Busy {
    /// Something is being done.
    Working,
    /// What was done is known from this revision on.
    Told(u64),
    /// Nothing could be stored.
    Cooling(Instant),
}

/// Orders whenever no other router does.
pub(crate) async fn keep_ordering(
    orderer: Orderer,
    mut known: watch::Receiver<Arc<Known>>,
    stop: CancellationToken,
) {
    let claimed = async {
        loop {
            // The sender lives as long as the router.
            let _ = known.wait_for(|known| known.revision > 0 && !known.is_led).await;
            match claim(&orderer.records).await {
                Ok(Some((lead, lease))) => orderer.lead(lead, lease, known.clone(), &stop).await,
                Ok(None) => {}
                Err(err) => {
                    let error = &err as &dyn Error;
                    warn!(error, "this router cannot come to order certificates now; trying again");
                }
            }
            sleep(CLAIM_PAUSE).await;
        }
    };
    stop.run_until_cancelled(claimed).await;
}

/// Becomes the router that orders, if none is.
async fn claim(records: &Records) -> Result<Option<(Lead, Lease)>, keyspace::Error> {
    let lease = records.keyspace().grant(LEASE).await?;
    match records.lead(lease.id()).await {
        Ok(lead) => Ok(Some((lead, lease))),
        Err(err) => {
            // If the claim came through all the same, it ends with this.
            records.keyspace().revoke(lease.id()).await?;
            if err.is_conflict() { Ok(None) } else { Err(err) }
        }
    }
}

impl Orderer {
    /// Orders as long as the lease lasts.
    async fn lead(
        &self,
        lead: Lead,
        mut lease: Lease,
        known: watch::Receiver<Arc<Known>>,
        stop: &CancellationToken,
    ) {
        info!("this router orders certificates now");
        let (id, keyspace) = (lease.id(), self.records.keyspace().clone());
        tokio::select! {
            () = stop.cancelled() => {}
            () = until_lost(&mut lease) => info!("another router may order certificates now"),
            () = self.order(lead, known) => {}
        }
        // At once, so that another one need not wait. What is under way is gone on with there.
        let _ = keyspace.revoke(id).await;
    }

    async fn order(&self, lead: Lead, mut known: watch::Receiver<Arc<Known>>) {
        let first = lead.revision;
        // Whatever a predecessor wrote came before the claim.
        let _ = known.wait_for(|known| known.revision >= first).await;
        let spent = known.borrow().spent.clone();
        let orders = Orders {
            lead,
            http: self.http.clone(),
            directory: self.directory.clone(),
            contact: self.contact.clone(),
            probe: self.probe.clone(),
            spent: spent.into(),
            known: known.clone(),
            account: Arc::default(),
        };
        let mut busy: BTreeMap<String, Busy> = BTreeMap::new();
        let mut work: FuturesUnordered<BoxFuture<'_, (String, Busy)>> = FuturesUnordered::new();
        let mut tick = interval(LOOK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                changed = known.changed() => if changed.is_err() { return },
                Some((name, done)) = work.next() => drop(busy.insert(name, done)),
            }
            let now = known.borrow_and_update().clone();
            busy.retain(|_, busy| !busy.is_over(now.revision));
            let names: BTreeSet<String> = busy.keys().cloned().collect();
            let (states, time) = (now.states(), Timestamp::now());
            let left = orders.spent.try_lock().map_or(0, |spent| spent.left(time));
            for (name, step) in
                plan::steps(&states, &names, time, AT_ONCE.saturating_sub(work.len()), left)
            {
                busy.insert(name.clone(), Busy::Working);
                work.push(Box::pin(act(&orders, now.clone(), name, step)));
            }
        }
    }
}

impl Busy {
    fn is_over(self, revision: u64) -> bool {
        match self {
            Self::Working => false,
            Self::Told(told) => revision >= told,
            Self::Cooling(until) => Instant::now() >= until,
        }
    }
}

/// Renews the lease until it is lost, or nothing is known of it for as long as it lasts.
async fn until_lost(lease: &mut Lease) {
    let mut tick = interval(RENEWAL_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut renewed = Instant::now();
    loop {
        tick.tick().await;
        let asked = Instant::now();
        match lease.renew().await {
            Ok(()) => renewed = asked,
            Err(keyspace::Error::LeaseGone { .. }) => return,
            Err(_) if renewed.elapsed() >= LEASE => return,
            Err(_) => {}
        }
    }
}

/// Does what is due about a name, and stores what came of it.
async fn act(orders: &Orders, known: Arc<Known>, name: String, step: Step) -> (String, Busy) {
    let result = match step {
        Step::Forget => orders.lead.forget(&name).await.map_err(Ended::from),
        Step::Order => orders.order(&name).await,
        Step::Finish => match known.orders.get(&name) {
            Some(order) => orders.finish(&name, order).await,
            None => Ok(known.revision),
        },
    };
    let told = match result {
        Ok(revision) => Ok(revision),
        Err(Ended::Failed(failure)) => keep_failure(orders, &known, &name, failure).await,
        Err(Ended::Postponed) => Ok(known.revision),
        Err(Ended::Interrupted(err)) => Err(err),
    };
    let busy = told.map_or_else(
        |err| {
            let (error, domain) = (&err as &dyn Error, &name);
            warn!(domain, error, "what became of the certificate for {name} could not be stored");
            Busy::Cooling(Instant::now() + COOLING)
        },
        Busy::Told,
    );
    (name, busy)
}

async fn keep_failure(
    orders: &Orders,
    known: &Known,
    name: &str,
    failure: Failure,
) -> Result<u64, keyspace::Error> {
    let (problem, detail) = (failure.problem, failure.detail);
    warn!(domain = name, detail, "no certificate for {name}: {problem}");
    let before = known.attempts(name);
    let jitter = plan::jitter(name);
    let now = Timestamp::now();
    let attempts = plan::failed(before, (problem, detail), failure.asked, jitter, now);
    orders.lead.keep_attempts(name, &attempts, failure.ends_order).await
}
