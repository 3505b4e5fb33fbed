//! One-off jobs that end with their clients, should the controller between the two be gone.
//!
//! Whoever relays for a job says so in its row, again and again. A controller that is killed stops saying it, and
//! stops no job whose client goes; so every controller stops those of which it was not said for a while, in which the
//! database was there to be told.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use api::{host::EndReason, id::JobId};
use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    error::{Error, Result},
    server::Controller,
    store::{self, Tx, jobs::Unattended},
};

/// Times it is said within the time for which it is good.
const SAYINGS: u32 = 3;

/// The jobs that this controller relays for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attachments {
    jobs: watch::Sender<BTreeSet<JobId>>,
    cut: CancellationToken,
}

impl Attachments {
    /// From here on, until what is returned is dropped.
    pub(crate) fn begin(&self, id: JobId) -> Attachment {
        self.jobs.send_if_modified(|jobs| jobs.insert(id));
        Attachment { id, all: self.clone() }
    }

    fn jobs(&self) -> Vec<JobId> {
        self.jobs.borrow().iter().copied().collect()
    }

    /// Ends once this controller relays for nobody.
    pub(crate) async fn none_left(&self) {
        // The sender is ours.
        let _ = self.jobs.subscribe().wait_for(BTreeSet::is_empty).await;
    }

    /// Ends all that are left; their jobs are stopped.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    /// Ends when the relays have to.
    pub(crate) async fn until_cut(&self) {
        self.cut.cancelled().await;
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
        self.all.jobs.send_if_modified(|jobs| jobs.remove(&self.id));
    }
}

/// The time since which the database has answered without a gap.
#[derive(Debug, Default)]
struct Answering {
    since: Option<Instant>,
    last: Option<Instant>,
}

impl Answering {
    /// Records an answer of the database at `now`. Returns whether it has answered without a gap for at least `lease`. In that
    /// time every controller that relays for a job could renew its lease, also one that came back after this one.
    fn answered(&mut self, now: Instant, lease: Duration) -> bool {
        let gap = self.last.is_none_or(|last| now - last > lease * 2 / SAYINGS);
        self.last = Some(now);
        if gap {
            self.since = Some(now);
        }
        self.since.is_some_and(|since| now - since >= lease)
    }
}

/// Says whom this controller relays for, and stops whom nobody does, until the daemon stops and nobody is left.
pub(crate) async fn keep(controller: Controller, stop: CancellationToken) {
    look_after_all(&controller, &stop).await;
    // Those that are still relayed for must not be taken for jobs that nobody relays for.
    let mut tick = interval(controller.attach_lease / SAYINGS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let sayings = async {
        loop {
            tick.tick().await;
            if let Err(err) = say(&controller).await {
                let error = &err as &dyn std::error::Error;
                debug!(error, "whom this controller relays for is not said");
            }
        }
    };
    tokio::select! {
        () = controller.attachments.none_left() => {}
        () = sayings => {}
    }
}

async fn look_after_all(controller: &Controller, stop: &CancellationToken) {
    let mut tick = interval(controller.attach_lease / SAYINGS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut before, mut answering) = (BTreeMap::new(), Answering::default());
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let round = round(controller, &before, &mut answering);
        before = match stop.run_until_cancelled(round).await {
            Some(Ok(unattended)) => unattended,
            Some(Err(err)) => {
                // While the database is away nobody can say anything in it.
                debug!(
                    error = &err as &dyn std::error::Error,
                    "attached jobs are not looked after"
                );
                answering = Answering::default();
                BTreeMap::new()
            }
            None => return,
        };
    }
}

/// Says in the database whom this controller relays for.
async fn say(controller: &Controller) -> Result<()> {
    let own = controller.attachments.jobs();
    if !own.is_empty() {
        let client = controller.db.client().await?;
        store::jobs::attach(&client, &own, controller.attach_lease).await?;
    }
    Ok(())
}

/// One round; answers of whom nobody has said that they have a client, and since when. `before` is what the last one
/// answered: of whom it was not said since then either.
async fn round(
    controller: &Controller,
    before: &BTreeMap<JobId, Timestamp>,
    answering: &mut Answering,
) -> Result<BTreeMap<JobId, Timestamp>> {
    let lease = controller.attach_lease;
    say(controller).await?;
    let client = controller.db.client().await?;
    let unattended = store::jobs::unattended(&client).await?;
    let since = unattended.iter().map(|job| (job.id, job.since)).collect();
    if !answering.answered(Instant::now(), lease) {
        return Ok(since);
    }
    for job in unattended.into_iter().filter(|job| before.get(&job.id) == Some(&job.since)) {
        if store::jobs::take_unattended(&client, &job, lease).await? {
            let controller = controller.clone();
            // A host that is slow delays none of what is said above.
            controller.lifetime.clone().spawn_request(async move { stop(&controller, job).await });
        }
    }
    Ok(since)
}

async fn stop(controller: &Controller, job: Unattended) {
    let id = job.id;
    match timeout(controller.attach_lease, end(controller, &job)).await {
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
}

async fn end(controller: &Controller, job: &Unattended) -> Result<()> {
    let host = controller.neighbours.host(&job.host)?;
    let stopped = host.stop_job(job.id).await;
    let mut client = controller.db.client().await?;
    match stopped {
        Err(err) if err.is_not_found() => {
            // Recorded by a controller that was killed before it could order it, or gone since.
            let why = format!("host {} does not know the job", job.host);
            let mut tx = Tx::begin(&mut client).await?;
            store::jobs::never_started(&mut tx, job.id, EndReason::HostLost, &why).await?;
            tx.commit().await?;
        }
        Err(err) => return Err(Error::neighbour("stopping the job")(err)),
        Ok(()) => {}
    }
    store::jobs::detach(&client, job.id).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_has_to_answer_for_a_whole_lease_without_a_gap() {
        let (start, lease) = (Instant::now(), Duration::from_secs(30));
        let mut answering = Answering::default();
        let mut at = |second| answering.answered(start + Duration::from_secs(second), lease);
        assert_eq!([0, 10, 20].map(&mut at), [false; 3]);
        assert_eq!([30, 40].map(&mut at), [true; 2]);
        // It was away, or this controller was: others were not heard, and may come back later.
        assert_eq!([75, 85, 95].map(&mut at), [false; 3]);
        assert!(at(105));
    }
}
