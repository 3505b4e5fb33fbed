//! Every job this host knows, and the stream of what happens to them.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use api::{
    host::{ActiveJob, Event, EventKind, Status},
    id::JobId,
};
use jiff::Timestamp;
use tokio::sync::{broadcast, watch};
use tracing::{error, info};

use super::{
    journal::{Entry, Journal},
    output::Output,
};
use crate::{
    disk::Durable,
    domain::job::{Observed, after},
};

/// Events kept for a slow subscriber. A job's life is five at most; past that the subscriber is cut off and begins
/// again with a listing.
const BACKLOG: usize = 4096;

/// What a job was told last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Go on.
    Run,
    /// Stop.
    Stop,
}

/// A job here.
#[derive(Debug)]
struct Known {
    active: ActiveJob,
    boot_id: String,
    order: watch::Sender<Order>,
    output: Arc<Output>,
    /// The job that takes its place, and cannot run while it does.
    makes_way_for: Option<JobId>,
    /// It has made way: it has no process, and gets none meanwhile.
    rests: bool,
    /// Held while the journal is written.
    writing: Arc<Mutex<()>>,
}

type Jobs<'a> = MutexGuard<'a, BTreeMap<JobId, Known>>;

/// All jobs.
#[derive(Debug)]
pub(crate) struct Registry {
    jobs: Mutex<BTreeMap<JobId, Known>>,
    events: broadcast::Sender<Event>,
    /// Nudged with every new job, for those who wait for one.
    arrivals: watch::Sender<()>,
    /// Nudged with every change of a job.
    changes: watch::Sender<()>,
    journal: Journal,
}

/// A subscription: what is known, and what comes after.
#[derive(Debug)]
pub(crate) struct Subscribed {
    pub(crate) jobs: Vec<ActiveJob>,
    pub(crate) events: broadcast::Receiver<Event>,
}

impl Registry {
    pub(crate) fn new(journal: Journal) -> Self {
        Self {
            jobs: Mutex::default(),
            events: broadcast::Sender::new(BACKLOG),
            arrivals: watch::Sender::new(()),
            changes: watch::Sender::new(()),
            journal,
        }
    }

    fn lock(&self) -> Jobs<'_> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job. With an event it is new; without, it was known before this daemon started.
    pub(crate) fn insert(&self, entry: Entry, output: Arc<Output>, event: Option<EventKind>) {
        let Entry { job: active, boot_id } = entry;
        let order = match active.status {
            Status::Stopping => Order::Stop,
            _ => Order::Run,
        };
        let order = watch::Sender::new(order);
        let mut jobs = self.lock();
        if let Some(event) = event {
            let _ = self.events.send(Event { event, job: Some(active.clone()) });
        }
        let writing = Arc::default();
        let known =
            Known { active, boot_id, order, output, makes_way_for: None, rests: false, writing };
        jobs.insert(known.active.job.id, known);
        drop(jobs);
        self.arrivals.send_replace(());
        self.changes.send_replace(());
    }

    /// One job.
    pub(crate) fn job(&self, id: JobId) -> Option<ActiveJob> {
        self.lock().get(&id).map(|known| known.active.clone())
    }

    /// All jobs.
    pub(crate) fn all(&self) -> BTreeMap<JobId, ActiveJob> {
        self.lock().iter().map(|(id, known)| (*id, known.active.clone())).collect()
    }

    /// What it writes.
    pub(crate) fn output(&self, id: JobId) -> Option<Arc<Output>> {
        self.lock().get(&id).map(|known| known.output.clone())
    }

    /// What it is told.
    pub(crate) fn orders(&self, id: JobId) -> Option<watch::Receiver<Order>> {
        self.lock().get(&id).map(|known| known.order.subscribe())
    }

    /// The journal's entry of a job.
    pub(crate) fn entry(&self, id: JobId) -> Option<Entry> {
        self.lock()
            .get(&id)
            .map(|known| Entry { job: known.active.clone(), boot_id: known.boot_id.clone() })
    }

    /// Sees a new job arrive.
    pub(crate) fn arrivals(&self) -> watch::Receiver<()> {
        self.arrivals.subscribe()
    }

    /// All jobs, and every event after.
    pub(crate) fn subscribe(&self) -> Subscribed {
        let jobs = self.lock();
        let events = self.events.subscribe();
        Subscribed { jobs: jobs.values().map(|known| known.active.clone()).collect(), events }
    }

    /// Something happened to a job. Answers how it is then.
    pub(crate) fn observe(&self, id: JobId, observed: Observed) -> Option<ActiveJob> {
        let jobs = self.lock();
        self.observe_in(jobs, id, observed)
    }

    /// The same, among jobs that were looked at before.
    fn observe_in(&self, mut jobs: Jobs<'_>, id: JobId, observed: Observed) -> Option<ActiveJob> {
        let on_trial = is_on_trial(&jobs, id);
        let known = jobs.get_mut(&id)?;
        let event = after(&mut known.active, observed, on_trial, Timestamp::now())?;
        if event == EventKind::Stopping {
            known.order.send_replace(Order::Stop);
        }
        let active = known.active.clone();
        let _ = self.events.send(Event { event, job: Some(active.clone()) });
        info!(job.id = %id, "job {id}: {event:?}, now {:?}", active.status);
        let writing = known.writing.clone();
        drop(jobs);
        self.changes.send_replace(());
        self.note(id, &writing);
        Some(active)
    }

    /// Gives the place of one job to another, if that one serves at this moment: the first is to stop.
    pub(crate) fn hand_over(&self, from: JobId, to: JobId) -> bool {
        let jobs = self.lock();
        let serves = jobs.get(&to).is_some_and(|to| to.active.status == Status::Running);
        serves && self.observe_in(jobs, from, Observed::Ordered).is_some()
    }

    /// Asks a job to end its process for another that takes its place.
    pub(crate) fn ask_to_make_way(&self, id: JobId, by: JobId) {
        self.change(id, |known| known.makes_way_for = Some(by));
    }

    /// For whom a job makes way, while that one is on trial.
    pub(crate) fn makes_way_for(&self, id: JobId) -> Option<JobId> {
        let jobs = self.lock();
        jobs.get(&id)?.makes_way_for.filter(|by| is_on_trial(&jobs, *by))
    }

    /// Says that a job has made way, or does so no more.
    pub(crate) fn rests(&self, id: JobId, rests: bool) {
        self.change(id, |known| {
            known.rests = rests;
            if !rests {
                known.makes_way_for = None;
            }
        });
    }

    fn change(&self, id: JobId, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.lock().get_mut(&id) {
            change(known);
        }
        self.changes.send_replace(());
    }

    /// Waits until something is so of what is known.
    async fn until_so(&self, so: impl Fn(&BTreeMap<JobId, Known>) -> bool) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if so(&self.lock()) {
                return;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until a job is so, or is not known.
    pub(crate) async fn until(&self, id: JobId, so: impl Fn(&ActiveJob) -> bool) {
        self.until_so(|jobs| jobs.get(&id).is_none_or(|known| so(&known.active))).await;
    }

    /// Waits until a job is asked to make way.
    pub(crate) async fn until_asked_to_make_way(&self, id: JobId) {
        let asked = |jobs: &BTreeMap<JobId, Known>| {
            let by = jobs.get(&id).and_then(|known| known.makes_way_for);
            by.is_some_and(|by| is_on_trial(jobs, by))
        };
        self.until_so(asked).await;
    }

    /// Waits until a job has made way, or is over.
    pub(crate) async fn until_at_rest(&self, id: JobId) {
        let rests = |known: &Known| known.rests || !known.active.status.is_active();
        self.until_so(|jobs| jobs.get(&id).is_none_or(rests)).await;
    }

    /// Waits until a job's trial is over.
    pub(crate) async fn until_tried(&self, id: JobId) {
        self.until_so(|jobs| !is_on_trial(jobs, id)).await;
    }

    /// Writes to the journal how a job is in its turn, so that nothing older replaces it. A journal that cannot be written
    /// must not stop a job that runs.
    fn note(&self, id: JobId, writing: &Mutex<()>) {
        let _turn = writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = self.entry(id) else { return };
        // A start is seen from the engine again; an order to stop and an end are not.
        let durable = match entry.job.status {
            Status::Starting | Status::Running => Durable::Renamed,
            _ => Durable::Synced,
        };
        if let Err(err) = self.journal.write(&entry, durable) {
            error!(error = %err, job.id = %id, "the journal could not be written");
        }
    }

    /// Writes an order to the journal before it counts.
    pub(crate) fn accept(&self, entry: &Entry) -> std::io::Result<()> {
        self.journal.write(entry, Durable::Synced)
    }

    /// Forgets the oldest ended jobs beyond `keep`.
    pub(crate) fn prune(&self, keep: usize) {
        let mut jobs = self.lock();
        let mut ended: Vec<(Option<Timestamp>, JobId)> = jobs
            .iter()
            .filter(|(_, known)| !known.active.status.is_active())
            .map(|(id, known)| (known.active.ended_at, *id))
            .collect();
        ended.sort();
        let surplus = ended.len().saturating_sub(keep);
        let mut forgotten = Vec::new();
        for (_, id) in ended.into_iter().take(surplus) {
            let Some(Known { active, writing, .. }) = jobs.remove(&id) else { continue };
            let _ = self.events.send(Event { event: EventKind::Cleanup, job: Some(active) });
            forgotten.push((id, writing));
        }
        drop(jobs);
        self.changes.send_replace(());
        for (id, writing) in forgotten {
            let _turn = writing.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(err) = self.journal.remove(id) {
                error!(error = %err, job.id = %id, "an entry of the journal could not be removed");
            }
        }
    }

    /// Jobs that hold room.
    pub(crate) fn active(&self) -> Vec<ActiveJob> {
        let jobs = self.lock();
        let active = jobs.values().filter(|known| known.active.status.is_active());
        active.map(|known| known.active.clone()).collect()
    }
}

/// Whether a job is to take the place of one that can still have it back.
fn is_on_trial(jobs: &BTreeMap<JobId, Known>, id: JobId) -> bool {
    let Some(new) = jobs.get(&id).filter(|new| new.active.status.is_active()) else { return false };
    let old = new.active.job.replaces.and_then(|old| jobs.get(&old));
    old.is_some_and(|old| matches!(old.active.status, Status::Starting | Status::Running))
}

/// Where a job's process is reached: its own address, or the host's.
pub(crate) fn own_address(active: &ActiveJob) -> Option<Ipv4Addr> {
    match active.internal_ip {
        Some(std::net::IpAddr::V4(address)) if !active.job.config.host_network => Some(address),
        _ => None,
    }
}

/// Folder of a job's log.
pub(crate) fn log_folder(logs: &std::path::Path, id: JobId) -> PathBuf {
    crate::logs::folder(logs, id)
}

#[cfg(test)]
mod tests {
    use api::host::Job;

    use super::*;

    #[test]
    fn the_journal_ends_with_what_was_seen_last() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new(Journal::open(dir.path()).unwrap());
        for _ in 0..200 {
            let id = JobId::random();
            let job: Job =
                serde_json::from_value(serde_json::json!({ "id": id, "image": "i" })).unwrap();
            let active = ActiveJob {
                job,
                host_id: "h".into(),
                container_id: String::new(),
                internal_ip: None,
                status: Status::Running,
                created_at: Timestamp::UNIX_EPOCH,
                started_at: Some(Timestamp::UNIX_EPOCH),
                ended_at: None,
                exit_status: None,
                error: None,
                end_reason: None,
                host_restarts: 0,
            };
            let output = Arc::new(Output::ended(None));
            registry.insert(Entry { job: active, boot_id: "b".into() }, output, None);
            // The end comes from the engine while the order to stop is written down.
            std::thread::scope(|threads| {
                threads.spawn(|| registry.observe(id, Observed::Ordered));
                let because = None;
                threads.spawn(|| registry.observe(id, Observed::Ended { status: 143, because }));
            });
            let kept =
                registry.journal.read().unwrap().into_iter().find(|one| one.job.job.id == id);
            assert_eq!(kept, registry.entry(id));
            registry.prune(0);
            assert_eq!(registry.journal.read().unwrap(), []);
        }
    }
}
