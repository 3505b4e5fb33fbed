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
        jobs.insert(active.job.id, Known { active, boot_id, order, output });
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
        let (active, entry) = {
            let mut jobs = self.lock();
            let known = jobs.get_mut(&id)?;
            let event = after(&mut known.active, observed, Timestamp::now())?;
            if event == EventKind::Stopping {
                known.order.send_replace(Order::Stop);
            }
            let active = known.active.clone();
            let _ = self.events.send(Event { event, job: Some(active.clone()) });
            info!(job.id = %id, "job {id}: {event:?}, now {:?}", active.status);
            (active.clone(), Entry { job: active, boot_id: known.boot_id.clone() })
        };
        // A start is seen from the engine again; an order to stop and an end are not.
        let durable = match active.status {
            Status::Starting | Status::Running => Durable::Renamed,
            _ => Durable::Synced,
        };
        self.note(&entry, durable);
        Some(active)
    }

    /// Writes an entry to the journal. A journal that cannot be written must not stop a job that runs.
    pub(crate) fn note(&self, entry: &Entry, durable: Durable) {
        if let Err(err) = self.journal.write(entry, durable) {
            error!(error = %err, job.id = %entry.job.job.id, "the journal could not be written");
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
        for (_, id) in ended.into_iter().take(surplus) {
            if let Some(known) = jobs.remove(&id) {
                let job = Some(known.active);
                let _ = self.events.send(Event { event: EventKind::Cleanup, job });
            }
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
