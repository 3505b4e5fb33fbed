//! One-off jobs that end with their clients, should the controller between the two be gone.
//!
//! Whoever relays for a job says so in its row, again and again. A controller that is killed stops saying it, and
//! stops no job whose client goes; so every controller stops those of which it was not said for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use api::id::JobId;
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    error::Result,
    server::Controller,
    store::{self, jobs::Unattended},
};

/// Times it is said within the time for which it is good.
const SAYINGS: u32 = 3;

/// The jobs that this controller relays for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attachments(Arc<Mutex<BTreeSet<JobId>>>);

impl Attachments {
    /// From here on, until what is returned is dropped.
    pub(crate) fn begin(&self, id: JobId) -> Attachment {
        self.change(|all| all.insert(id));
        Attachment { id, all: self.clone() }
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeSet<JobId>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A job this controller relays for.
#[derive(Debug)]
pub(crate) struct Attachment {
    id: JobId,
    all: Attachments,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.all.change(|all| all.remove(&self.id));
    }
}

/// Says whom this controller relays for, and stops whom nobody does, until the daemon stops.
pub(crate) async fn keep(controller: Controller, stop: CancellationToken) {
    let mut tick = interval(controller.attach_lease / SAYINGS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = BTreeMap::new();
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        before = match stop.run_until_cancelled(round(&controller, &before)).await {
            Some(Ok(unattended)) => unattended,
            Some(Err(err)) => {
                // While the database is away nobody can say anything in it.
                debug!(
                    error = &err as &dyn std::error::Error,
                    "attached jobs are not looked after"
                );
                BTreeMap::new()
            }
            None => return,
        };
    }
}

/// One round; answers of whom nobody has said that they have a client, and since when. `before` is what the last one
/// answered: a controller that comes back with the database has had the time to say it since.
async fn round(
    controller: &Controller,
    before: &BTreeMap<JobId, Timestamp>,
) -> Result<BTreeMap<JobId, Timestamp>> {
    let client = controller.db.client().await?;
    let own: Vec<JobId> = controller.attachments.change(|all| all.iter().copied().collect());
    if !own.is_empty() {
        store::jobs::attach(&client, &own, controller.attach_lease).await?;
    }
    let unattended = store::jobs::unattended(&client).await?;
    drop(client);
    let since = unattended.iter().map(|job| (job.id, job.since)).collect();
    for job in unattended.into_iter().filter(|job| before.get(&job.id) == Some(&job.since)) {
        let controller = controller.clone();
        // A host that is slow delays none of what is said above.
        controller.lifetime.clone().spawn_request(async move {
            let id = job.id;
            match timeout(controller.attach_lease, end(&controller, &job)).await {
                Ok(Ok(())) => {
                    info!(job.id = %id, "job {id} is stopped: who relayed for its client is gone");
                }
                Ok(Err(err)) => warn!(
                    error = &err as &dyn std::error::Error,
                    job.id = %id,
                    "job {id} has no client any more and is not stopped yet"
                ),
                Err(_) => warn!(job.id = %id, "the host of job {id} does not answer"),
            }
        });
    }
    Ok(since)
}

async fn end(controller: &Controller, job: &Unattended) -> Result<()> {
    let host = controller.neighbours.host(&job.host)?;
    match host.stop_job(job.id).await {
        Err(err) if !err.is_not_found() => {
            return Err(crate::error::Error::neighbour("stopping the job")(err));
        }
        _ => {}
    }
    store::jobs::detach(&controller.db.client().await?, job.id).await
}
