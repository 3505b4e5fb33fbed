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
use daemon::reconcile::Reconcile;
use futures_util::{StreamExt, stream};
use host_client::{Cluster, CommitError};
use jiff::{SignedDuration, Timestamp};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::{
    domain::{Plan, Reports, plan, reports},
    leadership::Leadership,
    observe::Observed,
};

/// Hosts that are told at once.
const HOSTS_AT_ONCE: usize = 16;

/// After the second round in a row that fell short the cluster is looked at again so soon, and then ever later.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_millis(200);

/// Longest pause after a round that fell short.
const LATEST: SignedDuration = SignedDuration::from_secs(3);

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
    pub reports: watch::Sender<Option<Arc<Reports>>>,
    /// When to look again at the latest.
    pub alarm: watch::Sender<Option<Timestamp>>,
    /// Jobs that were said to be foreign.
    pub foreign: BTreeSet<JobId>,
    /// Whether the leading flynn-host was said not to answer.
    pub away: bool,
    /// How many rounds in a row fell short.
    pub short_rounds: u32,
}

impl Reconcile for Scheduler {
    type Error = Infallible;

    async fn reconcile(&mut self) -> Result<(), Infallible> {
        let Some(term) = self.leadership.term() else {
            self.reports.send_if_modified(|reports| reports.take().is_some());
            return Ok(());
        };
        let now = Timestamp::now();
        let Some(state) = self.state().await else {
            self.alarm.send_replace(Some(now + LOOK_AGAIN));
            return Ok(());
        };
        let Some(snapshot) = self.observed.snapshot(&state, Uuid::new_v4(), now) else {
            debug!("too little is known yet to decide anything");
            return Ok(());
        };
        let plan = plan(&snapshot);
        self.warn_of_foreign(&plan);
        self.observed.waiting(plan.waiting.clone());
        self.reports.send_replace(Some(Arc::new(reports(&snapshot, &plan))));
        let wake_at = plan.wake_at;
        // The leading host will say any moment that it is gone.
        let lost = snapshot.hosts.values().any(|host| !host.connected);
        let fell_short = self.execute(plan, term, now).await;
        self.short_rounds = if fell_short { self.short_rounds.saturating_add(1) } else { 0 };
        let alarm = [
            pause_after(self.short_rounds).map(|pause| Timestamp::now() + pause),
            lost.then(|| Timestamp::now() + LOST),
            wake_at,
        ];
        self.alarm.send_replace(alarm.into_iter().flatten().min());
        Ok(())
    }
}

/// When to look again after so many rounds in a row that fell short; the first time at once, for mostly something has
/// changed between the look and the commit.
pub fn pause_after(short_rounds: u32) -> Option<SignedDuration> {
    let later = short_rounds.checked_sub(2).map(|doubled| LOOK_AGAIN * (1 << doubled.min(8)));
    (short_rounds > 0).then(|| later.unwrap_or_default().min(LATEST))
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
        observed.not_taken(&self.host, self.start(), reason, now);
        true
    }

    /// What is to be remembered of a transaction whose answer was lost.
    pub fn unanswered(&self, observed: &Observed, now: Timestamp) {
        observed.not_stopping(&self.stop);
        observed.doubted(self.start(), now);
    }
}

impl Scheduler {
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

    /// Does a plan, each host's part by itself: none waits for another's room. Answers whether any fell short.
    async fn execute(&self, plan: Plan, term: Term, now: Timestamp) -> bool {
        let cluster = self.cluster.with_term(term);
        let done = stream::iter(parts(plan))
            .map(|part| self.commit(&cluster, part, now))
            .buffer_unordered(HOSTS_AT_ONCE);
        done.fold(false, async |any, this| any | this).await
    }

    /// Commits one host's part. Answers whether it fell short.
    async fn commit(&self, cluster: &Cluster, mut part: Part, now: Timestamp) -> bool {
        self.observed.stopping(&part.stop, now);
        let mut committed = cluster.commit(&part.tx).await;
        let mut refused = false;
        if let Err(CommitError::Rejected(rejected)) = &committed {
            debug!(host.id = %part.host, "host {} is not as it was planned on: {rejected:?}", part.host);
            refused = true;
            let Some(stops) = part.refused(&self.observed, Timestamp::now()) else { return true };
            part = stops;
            committed = cluster.commit(&part.tx).await;
        }
        let host = &part.host;
        match committed {
            Ok(committed) => {
                if part.committed(&self.observed, &committed, Timestamp::now()) {
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
                part.unanswered(&self.observed, Timestamp::now());
                true
            }
        }
    }

    fn warn_of_foreign(&mut self, plan: &Plan) {
        for job in plan.foreign.difference(&self.foreign) {
            warn!(job.id = %job, "job {job} is of an app the controller never listed: left alone");
        }
        self.foreign.clone_from(&plan.foreign);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_short_round_is_followed_at_once_and_the_others_ever_later() {
        let pauses: Vec<_> = (0..8).map(pause_after).collect();
        let millis = |pause| Some(SignedDuration::from_millis(pause));
        assert_eq!(pauses[..4], [None, millis(0), millis(200), millis(400)]);
        assert_eq!(pauses[7], Some(LATEST));
        assert_eq!(pause_after(u32::MAX), Some(LATEST));
    }
}
