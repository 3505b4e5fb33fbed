//! Deleting apps: no new process, no route, then, when the last process has ended, the name is free.
//!
//! That an app shall go is kept in the database, so any controller goes on with it, whatever became of the one that was
//! asked and of the client that asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use api::{
    controller::{App, Job, JobState},
    host::EndReason,
    id::{AppId, JobId},
};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    error::{Error, Result},
    handlers::routes,
    server::Controller,
    store::{self, Tx, apps::Deletion},
};

/// Longest wait of one request; the deletion goes on after it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked at even if nothing is heard.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Added to the time the slowest process has to stop, for its host to say that it has.
const GRACE: Duration = Duration::from_secs(120);
/// Longest time a look at one app may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time a host may take to hear that a job is to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// An order that its host has not heard of after this time will not come.
const ORDER_TIMEOUT: Duration = Duration::from_secs(120);
/// Apps deleted at a time.
const AT_ONCE: usize = 32;
/// Hosts asked at a time.
const HOSTS_AT_ONCE: usize = 16;

/// What was done already, by this controller; forgotten with it, it is done again, which is harmless.
#[derive(Debug, Default)]
struct Progress {
    routes_gone: bool,
    told: Vec<JobId>,
}

/// Goes on with all deletions until the daemon stops.
pub(crate) async fn keep(controller: Controller, stop: CancellationToken) {
    let mut nudges = controller.events.nudges();
    let (mut known, mut told) = (BTreeMap::new(), BTreeSet::new());
    loop {
        nudges.mark_unchanged();
        tokio::select! {
            () = stop.cancelled() => return,
            busy = rounds(&controller, &mut known, &mut told) => if let Err(err) = busy {
                // Every request tells of a database that is away.
                tracing::debug!(error = &err as &dyn std::error::Error, "deletions wait");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = timeout(LOOK_AGAIN, nudges.changed()) => {}
        }
    }
}

async fn rounds(
    controller: &Controller,
    known: &mut BTreeMap<AppId, Progress>,
    told: &mut BTreeSet<JobId>,
) -> Result<()> {
    let (deleted, stopped) =
        tokio::join!(round(controller, known), stop_left_over(controller, told));
    deleted.and(stopped)
}

async fn round(controller: &Controller, known: &mut BTreeMap<AppId, Progress>) -> Result<()> {
    let deletions = {
        let client = controller.db.client().await?;
        store::apps::deletions(&client).await?
    };
    known.retain(|id, _| deletions.iter().any(|deletion| deletion.app.id == *id));
    let work: Vec<_> = deletions
        .into_iter()
        .map(|deletion| (known.remove(&deletion.app.id).unwrap_or_default(), deletion))
        .collect();
    let steps = stream::iter(work).map(|(mut progress, deletion)| async move {
        let step = timeout(STEP_TIMEOUT, step(controller, &deletion, &mut progress)).await;
        // Missing: another controller has just deleted it.
        if let Ok(Err(err)) = step
            && !matches!(err, Error::Missing { .. })
        {
            let error = &err as &dyn std::error::Error;
            warn!(error, app.id = %deletion.app.id, "the deletion of {} waits", deletion.app.name);
        }
        (deletion.app.id, progress)
    });
    *known = steps.buffer_unordered(AT_ONCE).collect().await;
    Ok(())
}

async fn step(controller: &Controller, deletion: &Deletion, done: &mut Progress) -> Result<()> {
    let app = &deletion.app;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    stop(&mut tx, app).await?;
    tx.commit().await?;
    drop(client);
    if !done.routes_gone {
        routes::delete_all(controller, app).await?;
        done.routes_gone = true;
    }
    stop_one_offs(controller, app, done).await?;
    let mut client = controller.db.client().await?;
    let running = store::jobs::unfinished(&client, app.id).await?;
    let mut tx = Tx::begin(&mut client).await?;
    if running == 0 {
        stop(&mut tx, app).await?;
        if store::apps::is_being_deleted(&*tx, app.id).await? {
            store::apps::delete(&mut tx, app).await?;
            info!(app.id = %app.id, "deleted app {}", app.name);
        }
    } else if deletion.waited > deletion.stop_timeout + GRACE {
        let error = format!(
            "{running} processes of {} did not end within {} s; see `flynn -a {} ps`, and delete it again",
            app.name,
            deletion.waited.as_secs(),
            app.name
        );
        store::apps::give_up_deletion(&mut tx, app, &error).await?;
    }
    tx.commit().await
}

/// Nothing of the app shall run, and nothing shall be deployed.
async fn stop(tx: &mut Tx<'_>, app: &App) -> Result<()> {
    store::apps::lock(tx, &app.id.to_string()).await?;
    store::deployments::fail_all(tx, app.id, "the app was deleted").await?;
    for formation in store::formations::of_app(&**tx, app.id).await? {
        store::formations::delete(tx, app.id, formation.release).await?;
    }
    Ok(())
}

/// What no formation stands for is stopped by its host. One that cannot be asked is gone, and its jobs with it. A host that
/// does not answer is asked again at the next look; it holds up no other.
async fn stop_one_offs(controller: &Controller, app: &App, done: &mut Progress) -> Result<()> {
    let jobs = {
        let client = controller.db.client().await?;
        store::jobs::one_off(&client, app.id).await?
    };
    let jobs = jobs.into_iter().filter(|job| !done.told.contains(&job.uuid)).collect();
    done.told.extend(stop_at_hosts(controller, jobs).await);
    Ok(())
}

/// Jobs of apps that are deleted already, of which a host told late, or whose order was under way for long. `told` has those
/// whose hosts know it.
async fn stop_left_over(controller: &Controller, told: &mut BTreeSet<JobId>) -> Result<()> {
    let jobs = {
        let client = controller.db.client().await?;
        store::jobs::left_over(&client).await?
    };
    told.retain(|id| jobs.iter().any(|job| job.uuid == *id));
    let jobs = jobs.into_iter().filter(|job| !told.contains(&job.uuid)).collect();
    for job in stop_at_hosts(controller, jobs).await {
        info!(job.id = %job, "told job {job} to stop: its app is deleted");
        told.insert(job);
    }
    Ok(())
}

/// Tells the host of each job to stop it, all hosts at the same time. Answers which jobs they know.
async fn stop_at_hosts(controller: &Controller, jobs: Vec<Job>) -> Vec<JobId> {
    let mut by_host: BTreeMap<String, Vec<Job>> = BTreeMap::new();
    for job in jobs {
        by_host.entry(job.host_id.clone().unwrap_or_default()).or_default().push(job);
    }
    let told = by_host.into_iter().map(|(id, jobs)| async move {
        let Ok(host) = controller.neighbours.host(&id) else { return Vec::new() };
        let mut told = Vec::new();
        for Job { uuid: job, state, updated_at, .. } in jobs {
            match timeout(STOP_TIMEOUT, host.stop_job(job)).await {
                Ok(Ok(())) => told.push(job),
                // It may be about to be ordered, for it is recorded before: the host is told again at the next look.
                Ok(Err(err)) if err.is_not_found() => {
                    if state == JobState::Starting && updated_at.is_some_and(is_long_ago) {
                        forget_order(controller, job).await;
                    }
                }
                Ok(Err(err)) => {
                    let error = &err as &dyn std::error::Error;
                    warn!(error, job.id = %job, host.id = %id, "job {job} is not stopped yet");
                    break;
                }
                Err(_) => {
                    warn!(job.id = %job, host.id = %id, "host {id} does not answer: its jobs are not stopped yet");
                    break;
                }
            }
        }
        told
    });
    stream::iter(told).buffer_unordered(HOSTS_AT_ONCE).concat().await
}

fn is_long_ago(at: Timestamp) -> bool {
    Timestamp::now().duration_since(at).unsigned_abs() > ORDER_TIMEOUT
}

/// A job was recorded and then not ordered, for its controller ended in between. If it was ordered after all, its host has
/// the last word.
async fn forget_order(controller: &Controller, job: JobId) {
    let forgotten = async {
        let mut client = controller.db.client().await?;
        let mut tx = Tx::begin(&mut client).await?;
        let why = "it was not ordered: its host does not know it";
        store::jobs::never_started(&mut tx, job, EndReason::HostLost, why).await?;
        tx.commit().await
    };
    if let Err(err) = forgotten.await {
        warn!(error = &err as &dyn std::error::Error, job.id = %job, "job {job} is still thought to start");
    }
}

/// Waits until an app is deleted, or its deletion was given up.
pub(crate) async fn wait(controller: &Controller, app: &App) -> Result<()> {
    let mut nudges = controller.events.nudges();
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    loop {
        nudges.mark_unchanged();
        {
            let client = controller.db.client().await?;
            // In this order: it ceases to be deleted when it is, or when that was given up.
            if !store::apps::is_being_deleted(&client, app.id).await? {
                if store::apps::is_deleted(&client, app.id).await? {
                    return Ok(());
                }
                let error = store::events::deletion_error(&client, app.id).await?;
                return Err(Error::Conflict(error.unwrap_or_else(|| "it was given up".into())));
            }
        }
        if Instant::now() >= deadline {
            return Err(Error::Away(format!(
                "{} is being deleted, but its processes have not ended yet; this goes on by itself, and asking again \
                 waits for its end",
                app.name
            )));
        }
        let _ = timeout_at(deadline.min(Instant::now() + LOOK_AGAIN), nudges.changed()).await;
    }
}
