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
    /// Held while the journal is written.
    writing: Arc<Mutex<()>>,
}

/// All jobs.
#[derive(Debug)]
pub(crate) struct Registry {
    jobs: Mutex<BTreeMap<JobId, Known>>,
    events: broadcast::Sender<Event>,
    /// Nudged with every new job, for those who wait for one.
    arrivals: watch::Sender<()>,
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
            journal,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Known>> {
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
        jobs.insert(active.job.id, Known { active, boot_id, order, output, writing });
        drop(jobs);
        self.arrivals.send_replace(());
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
        let (active, writing) = {
            let mut jobs = self.lock();
            let known = jobs.get_mut(&id)?;
            let event = after(&mut known.active, observed, Timestamp::now())?;
            if event == EventKind::Stopping {
                known.order.send_replace(Order::Stop);
            }
            let active = known.active.clone();
            let _ = self.events.send(Event { event, job: Some(active.clone()) });
            info!(job.id = %id, "job {id}: {event:?}, now {:?}", active.status);
            (active, known.writing.clone())
        };
        self.note(id, &writing);
        Some(active)
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
