//! Deleting apps: no new process, no route, then, when the last process has ended, the name is free.
//!
//! That an app shall go is kept in the database, so any controller goes on with it, whatever became of the one that was
//! asked and of the client that asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::{
    controller::{App, Job},
    id::{AppId, JobId},
};
use futures_util::{
    Stream, StreamExt,
    stream::{self, FuturesUnordered},
};
use host_client::Host;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

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
/// Longest time a look at one app may take to stop what there is of it, and then to find out what is left; also the longest
/// one at the jobs of deleted apps.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time a host may take to hear that a job is to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Apps looked at at a time.
const AT_ONCE: usize = 32;
/// Hosts asked at a time.
const HOSTS_AT_ONCE: usize = 16;
/// Jobs a host is told to stop at a time.
const STOPS_AT_ONCE: usize = 8;

/// What was done already, by this controller; forgotten with it, it is done again, which is harmless.
#[derive(Debug, Default)]
struct Progress {
    routes_gone: bool,
    told: BTreeSet<JobId>,
    looked_at: Option<Instant>,
}

/// The apps that are being deleted. Absent: it is being looked at.
type Known = BTreeMap<AppId, Option<Progress>>;

/// Goes on with all deletions until the daemon stops. A look at one app holds up that at no other.
pub(crate) async fn keep(controller: Controller, stop: CancellationToken) {
    let mut nudges = controller.events.nudges();
    nudges.mark_changed();
    let (mut known, mut looks) = (Known::new(), FuturesUnordered::new());
    // Apps that were listed while they were looked at: what was to be seen then may have come after that look.
    let mut missed: BTreeSet<AppId> = BTreeSet::new();
    // Apps that are to be looked at, but for which there was no place.
    let mut owed: BTreeSet<AppId> = BTreeSet::new();
    let again = Notify::new();
    loop {
        let mut listed = pin!(list_when_nudged(&controller, &mut nudges, &again));
        let deletions = loop {
            tokio::select! {
                () = stop.cancelled() => return,
                deletions = &mut listed => break deletions,
                Some((app, progress)) = looks.next() => {
                    known.insert(app, Some(progress));
                    if missed.remove(&app) || !owed.is_empty() {
                        again.notify_one();
                    }
                }
            }
        };
        match deletions {
            Ok((is_news, deletions)) => {
                let listed: BTreeSet<_> =
                    deletions.iter().map(|deletion| deletion.app.id).collect();
                if is_news {
                    missed.extend(listed.iter().filter(|app| matches!(known.get(app), Some(None))));
                }
                let is_new = |app: &&AppId| is_news || !known.contains_key(app);
                owed.extend(listed.iter().filter(is_new));
                owed.retain(|app| listed.contains(app) && !matches!(known.get(app), Some(None)));
                let due = take_due(&mut known, deletions, &owed, AT_ONCE - looks.len());
                for (deletion, done) in due {
                    owed.remove(&deletion.app.id);
                    looks.push(look(&controller, deletion, done));
                }
            }
            // Every request tells of a database that is away.
            Err(err) => debug!(error = &err as &dyn std::error::Error, "deletions wait"),
        }
    }
}

/// Waits until something happens, or for a while, and lists the apps that shall be deleted. Returns also whether something
/// happened.
async fn list_when_nudged(
    controller: &Controller,
    nudges: &mut watch::Receiver<u64>,
    again: &Notify,
) -> Result<(bool, Vec<Deletion>)> {
    let is_news = tokio::select! {
        nudged = timeout(LOOK_AGAIN, nudges.changed()) => nudged.is_ok(),
        () = again.notified() => false,
    };
    let client = controller.db.client().await?;
    Ok((is_news, store::apps::deletions(&client).await?))
}

/// Takes up to `places` deletions that nobody looks at, first those that are owed a look, and of all those that were not
/// looked at for longest: apps whose hosts are slow leave places to the others.
fn take_due(
    known: &mut Known,
    mut deletions: Vec<Deletion>,
    owed: &BTreeSet<AppId>,
    places: usize,
) -> Vec<(Deletion, Progress)> {
    known.retain(|id, progress| {
        progress.is_none() || deletions.iter().any(|deletion| deletion.app.id == *id)
    });
    deletions.retain(|deletion| !matches!(known.get(&deletion.app.id), Some(None)));
    let looked_at = |app: &AppId| known.get(app)?.as_ref()?.looked_at;
    let turn = |Deletion { app, .. }: &Deletion| (!owed.contains(&app.id), looked_at(&app.id));
    deletions.sort_by_key(turn);
    deletions.truncate(places);
    let take = |deletion: Deletion| {
        let progress = known.insert(deletion.app.id, None).flatten();
        (deletion, progress.unwrap_or_default())
    };
    deletions.into_iter().map(take).collect()
}

/// One look at an app. What was done is known also if there was no time for the rest.
async fn look(
    controller: &Controller,
    deletion: Deletion,
    mut done: Progress,
) -> (AppId, Progress) {
    let app = &deletion.app;
    done.looked_at = Some(Instant::now());
    let stopped = timeout(STEP_TIMEOUT, stop_all(controller, app, &mut done)).await;
    let concluded = timeout(STEP_TIMEOUT, conclude(controller, &deletion, done.routes_gone)).await;
    for result in [stopped, concluded] {
        // Missing: another controller has just deleted it.
        if let Ok(Err(err)) = result
            && !matches!(err, Error::Missing { .. })
        {
            let error = &err as &dyn std::error::Error;
            warn!(error, app.id = %app.id, "the deletion of {} waits", app.name);
        }
    }
    (app.id, done)
}

/// Nothing of the app shall run, nothing lead to it, and what runs shall end.
async fn stop_all(controller: &Controller, app: &App, done: &mut Progress) -> Result<()> {
    {
        let mut client = controller.db.client().await?;
        let mut tx = Tx::begin(&mut client).await?;
        stop(&mut tx, app).await?;
        tx.commit().await?;
    }
    let Progress { routes_gone, told, .. } = done;
    let without_routes = async {
        if !*routes_gone {
            routes::delete_all(controller, app).await?;
            *routes_gone = true;
        }
        Ok(())
    };
    let (routes, jobs) = tokio::join!(without_routes, stop_one_offs(controller, app, told));
    routes.and(jobs)
}

/// Deletes the app if nothing is left of it, or gives that up if something is for too long.
async fn conclude(controller: &Controller, deletion: &Deletion, routes_gone: bool) -> Result<()> {
    let app = &deletion.app;
    let mut client = controller.db.client().await?;
    let running = store::jobs::unfinished(&client, app.id).await?;
    let mut tx = Tx::begin(&mut client).await?;
    if running == 0 && routes_gone {
        stop(&mut tx, app).await?;
        if store::apps::is_being_deleted(&*tx, app.id).await? {
            store::apps::delete(&mut tx, app).await?;
            info!(app.id = %app.id, "deleted app {}", app.name);
        }
    } else if running > 0 && deletion.waited > deletion.stop_timeout + GRACE {
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

/// What no formation stands for is stopped by its host.
async fn stop_one_offs(
    controller: &Controller,
    app: &App,
    told: &mut BTreeSet<JobId>,
) -> Result<()> {
    let jobs = {
        let client = controller.db.client().await?;
        store::jobs::one_off(&client, app.id).await?
    };
    let mut stopped = pin!(stop_at_hosts(controller, jobs, told));
    while let Some(job) = stopped.next().await {
        told.insert(job);
    }
    Ok(())
}

/// Stops jobs of apps that are deleted already, of which a host told late, or whose order was under way for long, until the
/// daemon stops.
pub(crate) async fn keep_stopping_left_over(controller: Controller, stop: CancellationToken) {
    let mut nudges = controller.events.nudges();
    // Those whose hosts know it.
    let mut told = BTreeSet::new();
    loop {
        nudges.mark_unchanged();
        let look = timeout(STEP_TIMEOUT, stop_left_over(&controller, &mut told));
        match stop.run_until_cancelled(look).await {
            None => return,
            Some(Ok(Err(err))) => {
                debug!(error = &err as &dyn std::error::Error, "jobs of deleted apps run on");
            }
            Some(_) => {}
        }
        let nudged = timeout(LOOK_AGAIN, nudges.changed());
        if stop.run_until_cancelled(nudged).await.is_none() {
            return;
        }
    }
}

async fn stop_left_over(controller: &Controller, told: &mut BTreeSet<JobId>) -> Result<()> {
    let jobs = {
        let client = controller.db.client().await?;
        store::jobs::left_over(&client).await?
    };
    told.retain(|id| jobs.iter().any(|job| job.uuid == *id));
    let mut stopped = pin!(stop_at_hosts(controller, jobs, told));
    while let Some(job) = stopped.next().await {
        info!(job.id = %job, "told job {job} to stop: its app is deleted");
        told.insert(job);
    }
    Ok(())
}

/// Tells the host of each job to stop it, unless that was `told` already. Answers which jobs the hosts know, each at once.
fn stop_at_hosts(
    controller: &Controller,
    jobs: Vec<Job>,
    told: &BTreeSet<JobId>,
) -> impl Stream<Item = JobId> + use<> {
    let mut by_host: BTreeMap<String, Vec<JobId>> = BTreeMap::new();
    for job in jobs.into_iter().filter(|job| !told.contains(&job.uuid)) {
        by_host.entry(job.host_id.unwrap_or_default()).or_default().push(job.uuid);
    }
    // One that cannot be asked is asked once it is back; whether it is gone for good, others find out.
    let known = |(id, jobs): (String, _)| Some((controller.neighbours.host(&id).ok()?, id, jobs));
    let hosts: Vec<_> = by_host.into_iter().filter_map(known).collect();
    let stopped = hosts.into_iter().map(|(host, id, jobs)| stop_at_host(host, id, jobs).boxed());
    stream::iter(stopped).flatten_unordered(HOSTS_AT_ONCE)
}

/// One that does not answer is asked nothing more until the next look.
fn stop_at_host(host: Host, id: String, jobs: Vec<JobId>) -> impl Stream<Item = JobId> + Send {
    let is_silent = Arc::new(AtomicBool::new(false));
    let stops = jobs.into_iter().map(move |job| {
        let (host, id, is_silent) = (host.clone(), id.clone(), is_silent.clone());
        async move {
            if is_silent.load(Ordering::Relaxed) {
                return None;
            }
            let stop = stop_job(&host, &id, job).await;
            is_silent.fetch_or(stop == Stop::Unanswered, Ordering::Relaxed);
            (stop == Stop::Told).then_some(job)
        }
    });
    stream::iter(stops).buffer_unordered(STOPS_AT_ONCE).filter_map(ready)
}

/// What came of telling a host to stop a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The host knows it.
    Told,
    /// It is told again at the next look.
    Refused,
    /// The host does not answer.
    Unanswered,
}

async fn stop_job(host: &Host, id: &str, job: JobId) -> Stop {
    match timeout(STOP_TIMEOUT, host.stop_job(job)).await {
        Ok(Ok(())) => Stop::Told,
        // It may be about to be ordered, for it is recorded before.
        Ok(Err(err)) if err.is_not_found() => Stop::Refused,
        Ok(Err(err)) => {
            let error = &err as &dyn std::error::Error;
            warn!(error, job.id = %job, host.id = %id, "job {job} is not stopped yet");
            if err.code().is_some() { Stop::Refused } else { Stop::Unanswered }
        }
        Err(_) => {
            warn!(job.id = %job, host.id = %id, "host {id} does not answer: its jobs are not stopped yet");
            Stop::Unanswered
        }
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn deletion(app: AppId) -> Deletion {
        let at = Timestamp::UNIX_EPOCH;
        let app = App {
            id: app,
            name: "one".into(),
            meta: BTreeMap::new(),
            strategy: api::controller::Strategy::default(),
            release: None,
            deploy_timeout: 120,
            created_at: at,
            updated_at: at,
        };
        Deletion { app, waited: Duration::ZERO, stop_timeout: Duration::ZERO }
    }

    #[test]
    fn whom_nobody_looks_at_has_its_turn_also_when_others_take_long() {
        let apps: Vec<AppId> = (0..3).map(|_| AppId::random()).collect();
        let listed = |of: &[AppId]| of.iter().map(|app| deletion(*app)).collect::<Vec<_>>();
        let (mut known, start) = (Known::new(), Instant::now());
        let take = |known: &mut Known, of: &[AppId], places| {
            let due = take_due(known, listed(of), &BTreeSet::new(), places);
            due.into_iter().map(|(deletion, _)| deletion.app.id).collect::<Vec<_>>()
        };
        assert_eq!(take(&mut known, &apps, 2), apps[..2]);
        assert_eq!(take(&mut known, &apps, 0), []);
        for (n, app) in (0..).zip(&apps[..2]) {
            let looked_at = Some(start + Duration::from_secs(n));
            known.insert(*app, Some(Progress { looked_at, ..Progress::default() }));
        }
        // The third was never looked at, then the first is the one that was not for longest.
        assert_eq!(take(&mut known, &apps, 2), [apps[2], apps[0]]);
        assert_eq!(take(&mut known, &apps, 9), [apps[1]]);
        // But one of which something was told comes before it.
        for (n, app) in [(0, apps[0]), (9, apps[2])] {
            let looked_at = Some(start + Duration::from_secs(n));
            known.insert(app, Some(Progress { looked_at, ..Progress::default() }));
        }
        let due = take_due(&mut known, listed(&apps), &[apps[2]].into(), 1);
        assert_eq!(due[0].0.app.id, apps[2]);
        assert_eq!(take(&mut known, &apps, 9), [apps[0]]);
        // What is deleted is forgotten, unless somebody still looks at it.
        known.insert(apps[1], Some(Progress::default()));
        assert_eq!(take(&mut known, &[], 9), []);
        assert_eq!(known.keys().collect::<BTreeSet<_>>(), [&apps[0], &apps[2]].into());
    }
}
