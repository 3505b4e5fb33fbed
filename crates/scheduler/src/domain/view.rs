//! What one host has told of its jobs.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    host::{ActiveJob, EndReason, Event, EventKind},
    id::JobId,
};
use jiff::{SignedDuration, Timestamp};

use super::job::{Ending, JobView, Phase};

/// An ended job is remembered for so long, whatever its host does: twice the time after which crashes are forgiven, so
/// that nothing that back-off looks at is gone.
const ENDED_KEPT: SignedDuration = SignedDuration::from_mins(10);

/// Ended jobs remembered a host, newest first. A host that ends more in ten minutes starts the older ones anew at once.
const ENDED_LIMIT: usize = 2000;

/// What one host has told of its jobs.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Its jobs, and those that ended lately. Shared with the snapshots made of it.
    pub jobs: Arc<BTreeMap<JobId, JobView>>,
    /// Whether all its jobs were told of once.
    pub synced: bool,
    /// Whether its event stream is open.
    pub connected: bool,
    /// Told of since the stream was opened, while the listing is not complete.
    listing: Option<BTreeMap<JobId, ActiveJob>>,
}

impl View {
    /// The event stream was opened: a listing follows.
    pub fn opened(&mut self) {
        self.listing = Some(BTreeMap::new());
    }

    /// Whether its event stream is open, its listing complete or not.
    pub fn is_open(&self) -> bool {
        self.connected || self.listing.is_some()
    }

    /// The event stream was lost. What was told stands.
    pub fn lost(&mut self) {
        self.connected = false;
        self.listing = None;
    }

    /// Takes an event. `asked`: whether a stop of that job was ordered.
    pub fn apply(&mut self, event: Event, asked: impl Fn(JobId) -> bool, now: Timestamp) {
        match (event.event, event.job) {
            (EventKind::Synced, _) => self.complete(asked, now),
            (_, None) => {}
            (EventKind::Cleanup, Some(job)) => {
                if let Some(listing) = &mut self.listing {
                    listing.remove(&job.job.id);
                }
                self.forgotten(job.job.id, now);
            }
            (kind, Some(job)) => {
                if kind != EventKind::Current {
                    self.told(&job, &asked, now);
                }
                // What happens while the host lists belongs to the listing.
                if let Some(listing) = &mut self.listing {
                    listing.insert(job.job.id, job);
                }
            }
        }
    }

    /// Records that the host did not take a job, unless it told of it.
    pub fn not_taken(&mut self, id: JobId, job: JobView) {
        self.jobs_mut().entry(id).or_insert(job);
    }

    /// Forgets what ended long ago.
    pub fn prune(&mut self, now: Timestamp) {
        let mut ended: Vec<(Timestamp, JobId)> =
            self.jobs.iter().filter_map(|(&id, job)| Some((job.ending()?.at, id))).collect();
        ended.sort_unstable_by(|a, b| b.cmp(a));
        for (n, (at, id)) in ended.into_iter().enumerate() {
            if n >= ENDED_LIMIT || now.duration_since(at) > ENDED_KEPT {
                self.jobs_mut().remove(&id);
            }
        }
    }

    fn jobs_mut(&mut self) -> &mut BTreeMap<JobId, JobView> {
        Arc::make_mut(&mut self.jobs)
    }

    fn told(&mut self, active: &ActiveJob, asked: &impl Fn(JobId) -> bool, now: Timestamp) {
        let id = active.job.id;
        let stopped = match self.jobs.get(&id).map(|job| &job.phase) {
            Some(Phase::Stopping) => true,
            Some(Phase::Ended(ending)) => ending.asked,
            _ => false,
        };
        self.jobs_mut().insert(id, JobView::told(active, stopped || asked(id), now));
    }

    /// The listing is whole: a job that is not in it is gone.
    fn complete(&mut self, asked: impl Fn(JobId) -> bool, now: Timestamp) {
        let Some(listing) = self.listing.take() else { return };
        let gone: Vec<JobId> =
            self.jobs.keys().filter(|id| !listing.contains_key(id)).copied().collect();
        for id in gone {
            self.forgotten(id, now);
        }
        for active in listing.values() {
            let first = !self.jobs.contains_key(&active.job.id);
            // Who was not there cannot know whether a job that ended with status 0 was told to: most were.
            let done = first && active.status == api::host::Status::Done;
            self.told(active, &|id| done || asked(id), now);
        }
        self.synced = true;
        self.connected = true;
        self.prune(now);
    }

    fn forgotten(&mut self, id: JobId, now: Timestamp) {
        let Some(job) = self.jobs_mut().get_mut(&id) else { return };
        match &mut job.phase {
            Phase::Ended(ending) => ending.forgotten = true,
            phase => {
                let asked = matches!(phase, Phase::Stopping);
                *phase = Phase::Ended(Ending {
                    at: now,
                    started_at: None,
                    asked,
                    crashed: !asked,
                    forgotten: true,
                    reason: Some(EndReason::HostLost),
                    exit_status: None,
                    error: (!asked).then(|| "its host no longer knows it".into()),
                });
            }
        }
    }
}
