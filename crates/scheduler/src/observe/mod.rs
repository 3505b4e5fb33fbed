//! What is and what should be, kept current by tasks that listen; any change nudges the loop that plans.
//!
//! Nothing is lost when a stream is: each begins with a complete listing, which replaces what was known.

mod formations;
mod hosts;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::{
    cluster::State,
    controller::ExpandedFormation,
    host::{Event, Job},
    id::{AppId, JobId},
};
pub use formations::keep_formations;
pub use hosts::keep_hosts;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::domain::{
    Formations, Snapshot, View, Waiting,
    job::{JobView, META_REPLACES, Phase},
    merge,
};

/// Hosts that did not list their jobs for so long after this scheduler began do not hold it up any more.
const SYNC_LIMIT: SignedDuration = SignedDuration::from_secs(10);

/// A stop that its host has not told of for so long never took place, and is decided anew.
const STOP_LIMIT: SignedDuration = SignedDuration::from_secs(30);

/// A replacement is remembered for longer than any host remembers what it replaced.
const REPLACED_KEPT: SignedDuration = SignedDuration::from_mins(30);

/// Pauses between attempts to open a stream: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What is known of the cluster.
#[derive(Debug, Default)]
pub struct Observed {
    /// Drawn at random when the scheduler begins.
    life: Uuid,
    known: Mutex<Known>,
    /// Told when something changed.
    pub nudge: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// Absent until the controller has listed them once.
    formations: Option<Arc<Formations>>,
    /// Apps of which formations were deleted before the first listing.
    deleted: Vec<AppId>,
    views: BTreeMap<String, View>,
    stops: BTreeMap<JobId, Timestamp>,
    /// By host: jobs in the state of which it has said nothing, and since when.
    untold: BTreeMap<String, BTreeMap<JobId, Timestamp>>,
    waited: Vec<Waiting>,
    /// Ended jobs whose replacement was taken, and when.
    replaced: BTreeMap<JobId, Timestamp>,
    /// Ended jobs whose replacement was ordered without a certain answer: how often, and when the last time.
    attempts: BTreeMap<JobId, (u32, Timestamp)>,
    /// Jobs that a host may not have taken; the state that is read next says which.
    doubtful: BTreeMap<JobId, (String, JobView)>,
    /// When a snapshot was first asked for.
    began: Option<Timestamp>,
}

impl Observed {
    /// Knows nothing yet. `life` is drawn at random: no other scheduler has it.
    pub fn new(life: Uuid) -> Self {
        Self { life, ..Self::default() }
    }

    /// One instant, or `None` while too little is known to decide anything.
    pub fn snapshot(&self, state: &State, seed: Uuid, now: Timestamp) -> Option<Snapshot> {
        let mut known = self.known();
        known.settle_doubts(state);
        let began = *known.began.get_or_insert(now);
        let Known { formations, views, stops, untold, waited, replaced, attempts, .. } =
            &mut *known;
        let formations = formations.clone()?;
        views.retain(|id, view| view.is_open() || state.hosts.contains_key(id));
        let synced = |id: &String| views.get(id).is_some_and(|view| view.synced);
        if !state.hosts.keys().all(synced) && now.duration_since(began) < SYNC_LIMIT {
            return None;
        }
        untold.retain(|host, _| state.hosts.contains_key(host));
        replaced.retain(|_, at| now.duration_since(*at) <= REPLACED_KEPT);
        attempts.retain(|_, (_, at)| now.duration_since(*at) <= REPLACED_KEPT);
        stops.retain(|id, at| {
            now.duration_since(*at) <= STOP_LIMIT && !views.values().any(|view| stopped(view, *id))
        });
        let hosts = state.hosts.iter().map(|(id, host)| {
            if let Some(view) = views.get_mut(id) {
                view.prune(now);
            }
            let untold = untold.entry(id.clone()).or_default();
            (id.clone(), merge(host, views.get(id), untold, now))
        });
        Some(Snapshot {
            now,
            seed,
            term: state.term,
            hosts: hosts.collect(),
            formations,
            stops: stops.keys().copied().collect(),
            waited: waited.clone(),
            life: self.life,
            replaced: replaced.keys().copied().collect(),
            attempts: attempts.iter().map(|(ended, (count, _))| (*ended, *count)).collect(),
        })
    }

    /// Remembers what a plan lets wait, for the next one.
    pub fn waiting(&self, waited: Vec<Waiting>) {
        self.known().waited = waited;
    }

    /// Remembers that jobs are told to stop, before they are: what their host tells may come before its answer.
    pub fn stopping(&self, jobs: &[JobId], now: Timestamp) {
        self.known().stops.extend(jobs.iter().map(|&job| (job, now)));
    }

    /// Jobs were not told to stop after all.
    pub fn not_stopping(&self, jobs: &[JobId]) {
        let mut known = self.known();
        for job in jobs {
            known.stops.remove(job);
        }
    }

    /// A host took these jobs: what they replace is replaced, wherever the host may go.
    pub fn taken(&self, jobs: &[Job], now: Timestamp) {
        self.known().replaced.extend(replaced_by(jobs).map(|ended| (ended, now)));
    }

    /// These jobs were ordered, and it is not known whether they were taken.
    pub fn doubted(&self, jobs: &[Job], now: Timestamp) {
        let mut known = self.known();
        for ended in replaced_by(jobs) {
            let attempts = known.attempts.entry(ended).or_insert((0, now));
            *attempts = (attempts.0 + 1, now);
        }
    }

    /// A host did not take all of these jobs. Each that the state does not have counts as crashed, so that trying again
    /// backs off.
    pub fn not_taken(&self, host: &str, jobs: &[Job], reason: &str, now: Timestamp) {
        let doubtful =
            jobs.iter().map(|job| (job.id, (host.into(), JobView::not_taken(job, reason, now))));
        self.known().doubtful.extend(doubtful);
    }

    pub fn has_listing(&self) -> bool {
        self.known().formations.is_some()
    }

    fn deleted(&self, apps: Vec<AppId>) {
        self.known().deleted = apps;
    }

    /// The controller listed all formations. Those of apps that were listed before and are not any more are deleted.
    pub fn listed(&self, listed: Vec<ExpandedFormation>) -> Result<(), EmptyListing> {
        let mut known = self.known();
        let before = known.formations.clone().unwrap_or_default();
        if listed.is_empty() && before.values().any(|releases| !releases.is_empty()) {
            return Err(EmptyListing);
        }
        let apps = before.keys().chain(&known.deleted);
        let mut formations: Formations = apps.map(|&app| (app, BTreeMap::new())).collect();
        for formation in listed {
            put(&mut formations, formation);
        }
        known.formations = Some(Arc::new(formations));
        drop(known);
        self.nudge.notify_one();
        Ok(())
    }

    /// The controller changed a formation.
    pub fn changed(&self, formation: ExpandedFormation) {
        let mut known = self.known();
        put(Arc::make_mut(known.formations.get_or_insert_default()), formation);
        drop(known);
        self.nudge.notify_one();
    }

    /// The stream of a host's events was opened: its listing follows.
    pub fn opened(&self, host: &str) {
        self.known().views.entry(host.into()).or_default().opened();
    }

    /// A host told of an event.
    pub fn told(&self, host: &str, event: Event, now: Timestamp) {
        let mut known = self.known();
        let Known { views, stops, .. } = &mut *known;
        let view = views.entry(host.into()).or_default();
        view.apply(event, |job| stops.contains_key(&job), now);
        let synced = view.synced;
        drop(known);
        if synced {
            self.nudge.notify_one();
        }
    }

    /// The stream of a host's events was lost.
    pub fn lost(&self, host: &str) {
        if let Some(view) = self.known().views.get_mut(host) {
            view.lost();
        }
        self.nudge.notify_one();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// A job in the state was taken; what is not was not, unless its host told of it.
    fn settle_doubts(&mut self, state: &State) {
        for (id, (host, job)) in std::mem::take(&mut self.doubtful) {
            let taken = state.hosts.get(&host).is_some_and(|host| host.jobs.contains_key(&id));
            if !taken {
                self.views.entry(host).or_default().not_taken(id, job);
            }
        }
    }
}

/// The controller listed no formation at all, where there were some: taken for a fault of the controller's, since it
/// would stop everything.
#[derive(Debug, thiserror::Error)]
#[error("the controller lists no formations, although it did before; going on with those known")]
pub struct EmptyListing;

/// The ended jobs that jobs replace.
fn replaced_by(jobs: &[Job]) -> impl Iterator<Item = JobId> {
    jobs.iter().filter_map(|job| job.metadata.get(META_REPLACES)?.parse().ok())
}

/// Whether a host has told that a job stops or is over.
fn stopped(view: &View, id: JobId) -> bool {
    let job = view.jobs.get(&id);
    job.is_some_and(|job| match &job.phase {
        Phase::Stopping => true,
        Phase::Ended(ending) => ending.asked,
        _ => false,
    })
}

/// Formations may be told of in any order: the one changed last counts.
fn put(formations: &mut Formations, formation: ExpandedFormation) {
    let releases = formations.entry(formation.app.id).or_default();
    let newer = releases
        .get(&formation.release.id)
        .is_none_or(|known| known.updated_at <= formation.updated_at);
    if newer {
        releases.insert(formation.release.id, Arc::new(formation));
    }
}

#[cfg(test)]
mod tests;
