//! What is and what should be, kept current by tasks that listen; any change nudges the loop that plans.
//!
//! Nothing is lost when a stream is: each begins with a complete listing, which replaces what was known.

mod formations;
mod hosts;
mod orders;

use std::{
    collections::{BTreeMap, BTreeSet},
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
use orders::Orders;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::domain::{
    Formations, Place, Snapshot, View, Waiting,
    job::{JobView, META_REPLACES, Phase},
    merge,
};

/// Hosts that did not list their jobs for so long after this scheduler began do not hold it up any more.
const SYNC_LIMIT: SignedDuration = SignedDuration::from_secs(10);

/// A stop that its host has not told of for so long never took place, and is decided anew.
const STOP_LIMIT: SignedDuration = SignedDuration::from_secs(30);

/// A replacement is remembered for longer than any host remembers what it replaced.
const REPLACED_KEPT: SignedDuration = SignedDuration::from_mins(30);

/// A job of an app that the controller does not list is left over from one that was deleted, once it was seen for so long:
/// until then its app may be one that is just being made.
const LEFT_OVER_GRACE: SignedDuration = SignedDuration::from_mins(10);

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
    /// Jobs that a host may not have taken; a state that is read from now on says which.
    doubtful: BTreeMap<JobId, Doubt>,
    /// Orders that are under way.
    orders: Orders,
    /// How often the cluster's state was read.
    looks: u64,
    /// Whether the controller's stream of formations is open, and so what is known is what it knows.
    current: bool,
    /// Jobs of apps the controller does not list, and since when.
    foreign: BTreeMap<JobId, Timestamp>,
    /// Jobs that were let take another's place, as the last plan found them.
    places: BTreeMap<JobId, Place>,
    /// When a snapshot was first asked for.
    began: Option<Timestamp>,
}

/// A job that a host may not have taken.
#[derive(Debug)]
struct Doubt {
    host: String,
    /// As it is if it was not.
    job: JobView,
    /// The look at the state during which the doubt arose: that state may be older.
    look: u64,
}

impl Observed {
    /// Knows nothing yet. `life` is drawn at random: no other scheduler has it.
    pub fn new(life: Uuid) -> Self {
        Self { life, ..Self::default() }
    }

    /// The cluster's state is about to be read, for [`Observed::snapshot`]: it will hold all orders that were answered.
    pub fn begin_look(&self) {
        let mut known = self.known();
        known.looks += 1;
        known.orders.forget_answered();
    }

    /// One instant, or `None` while too little is known to decide anything.
    pub fn snapshot(&self, state: &State, seed: Uuid, now: Timestamp) -> Option<Snapshot> {
        let mut known = self.known();
        known.settle_doubts(state);
        let began = *known.began.get_or_insert(now);
        let left_over = known.left_over(now);
        let Known { formations, views, stops, untold, waited, replaced, attempts, orders, .. } =
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
            let mut view = merge(host, views.get(id), untold, now);
            orders.join(id, host, &mut view, now);
            (id.clone(), view)
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
            volumes: state.volumes.clone(),
            ordering: orders.jobs().collect(),
            left_over,
            places: known.places.clone(),
        })
    }

    /// Remembers which jobs a plan found to be of apps that the controller does not list.
    pub fn foreign(&self, jobs: &BTreeSet<JobId>, now: Timestamp) {
        remember(&mut self.known().foreign, jobs, now);
    }

    /// Remembers what a plan found to have become of the places that jobs were let take.
    pub fn places(&self, places: BTreeMap<JobId, Place>) {
        self.known().places = places;
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
    pub fn not_taken<'a>(
        &self,
        host: &str,
        jobs: &[Job],
        reason: impl Fn(JobId) -> &'a str,
        now: Timestamp,
    ) {
        let mut known = self.known();
        let look = known.looks;
        let doubt = |job: &Job| {
            let host = host.to_owned();
            (job.id, Doubt { host, job: JobView::not_taken(job, reason(job.id), now), look })
        };
        known.doubtful.extend(jobs.iter().map(doubt));
    }

    /// Whether all formations were listed once.
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
        known.current = true;
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

    /// The stream of formations was lost. What was told stands.
    pub fn formations_lost(&self) {
        self.known().current = false;
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
    /// A job in the state was taken; what is not was not, unless its host told of it. A state that was asked for before the
    /// doubt arose settles nothing.
    fn settle_doubts(&mut self, state: &State) {
        let looks = self.looks;
        for (id, doubt) in self.doubtful.extract_if(.., |_, doubt| doubt.look < looks) {
            let host = state.hosts.get(&doubt.host);
            if !host.is_some_and(|host| host.jobs.contains_key(&id)) {
                self.views.entry(doubt.host).or_default().not_taken(id, doubt.job);
            }
        }
    }

    /// Jobs that no app the controller knows has had for long. A controller that lists nothing is not believed.
    fn left_over(&self, now: Timestamp) -> BTreeSet<JobId> {
        let formations = self.formations.iter().flat_map(|formations| formations.values());
        if !self.current || !formations.into_iter().any(|releases| !releases.is_empty()) {
            return BTreeSet::new();
        }
        let long = |since: &Timestamp| now.duration_since(*since) >= LEFT_OVER_GRACE;
        let jobs = self.foreign.iter().filter(|(_, since)| long(since));
        jobs.map(|(&job, _)| job).collect()
    }
}

/// The controller listed no formation at all, where there were some: taken for a fault of the controller's, since it
/// would stop everything.
#[derive(Debug, thiserror::Error)]
#[error("the controller lists no formations, although it did before; going on with those known")]
pub struct EmptyListing;

/// Notes since when each job has been among these.
fn remember(since: &mut BTreeMap<JobId, Timestamp>, jobs: &BTreeSet<JobId>, now: Timestamp) {
    since.retain(|job, _| jobs.contains(job));
    for &job in jobs {
        since.entry(job).or_insert(now);
    }
}

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

/// The controller's stream is in order, so the last word counts, whatever the clocks say. What has no processes is not
/// kept: an app that is deployed often would leave a release behind each time.
fn put(formations: &mut Formations, formation: ExpandedFormation) {
    let releases = formations.entry(formation.app.id).or_default();
    if formation.processes.is_empty() {
        releases.remove(&formation.release.id);
    } else {
        releases.insert(formation.release.id, Arc::new(formation));
    }
}

#[cfg(test)]
mod tests;
