//! Telling the controller what became of jobs, apart from the loop, so that a slow controller delays no job.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{
    controller::{Job, JobState},
    host::EndReason,
    id::JobId,
};
use controller_client::{Controller, Error};
use futures_util::{StreamExt, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::domain::Reports;

/// Jobs that are reported at once.
const AT_ONCE: usize = 8;

/// Pause before what could not be told is told again.
const PAUSE: Duration = Duration::from_millis(500);

/// A job the controller knew before this scheduler led is given up for gone when no host has told of it for so long.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// What the controller knows of a job.
#[derive(Debug)]
struct Told {
    job: Job,
    /// Not by us, but when we began.
    before: Option<Instant>,
}

type AllTold = BTreeMap<JobId, Told>;

/// Tells the controller every change for as long as the daemon runs and leads.
pub async fn keep_telling(
    controller: Controller,
    mut reports: watch::Receiver<Option<Arc<Reports>>>,
    stop: CancellationToken,
) {
    let mut told: Option<AllTold> = None;
    loop {
        let wanted = reports.borrow_and_update().clone();
        let all = match wanted {
            Some(wanted) => tell_all(&controller, &wanted, &mut told).await,
            None => {
                told = None;
                true
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = reports.changed() => if changed.is_err() { return },
            () = sleep(PAUSE), if !all => {}
        }
    }
}

/// Answers whether the controller knows everything now.
async fn tell_all(controller: &Controller, wanted: &Reports, told: &mut Option<AllTold>) -> bool {
    let told = match told {
        Some(told) => told,
        none => match known(controller).await {
            Ok(known) => none.insert(known),
            Err(err) => {
                let error = &err as &dyn std::error::Error;
                debug!(error, "the controller cannot be asked what it knows of jobs");
                return false;
            }
        },
    };
    let changes = changes(wanted, told);
    let results: Vec<(Job, Result<(), Error>)> = stream::iter(changes)
        .map(async |job| {
            let result = controller.put_job(&job).await.map(drop);
            (job, result)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut all = true;
    for (job, result) in results {
        match result {
            Err(err) if err.is_retryable() => {
                debug!(
                    error = &err as &dyn std::error::Error,
                    job.id, "job {} is told later", job.id
                );
                all = false;
                continue;
            }
            Err(err) if err.is_not_found() => debug!(job.id, "the app of job {} is gone", job.id),
            Err(err) => {
                let error = &err as &dyn std::error::Error;
                warn!(error, job.id, "the controller does not want to know of job {}", job.id);
            }
            Ok(()) => {}
        }
        told.insert(job.uuid, Told { job, before: None });
    }
    told.retain(|id, told| wanted.contains_key(id) || is_active(told.job.state));
    all
}

/// What the controller knows already, so that a scheduler that takes over tells only what changed.
async fn known(controller: &Controller) -> Result<AllTold, Error> {
    let mut known = AllTold::new();
    let before = Some(Instant::now());
    for app in controller.apps().await? {
        match controller.jobs(&app.id.to_string()).await {
            Ok(jobs) => {
                known.extend(jobs.into_iter().map(|job| (job.uuid, Told { job, before })));
            }
            Err(err) if err.is_not_found() => {}
            Err(err) => return Err(err),
        }
    }
    Ok(known)
}

/// What the controller has yet to be told: endings first, since deployments and people wait for them.
fn changes(wanted: &Reports, told: &AllTold) -> Vec<Job> {
    let mut changes: Vec<Job> = wanted
        .iter()
        .filter_map(|(id, job)| {
            let job = job.as_ref()?;
            (!told.get(id).is_some_and(|told| same(&told.job, job))).then(|| job.clone())
        })
        .collect();
    for (id, Told { job, before }) in told {
        let waited = before.is_none_or(|before| before.elapsed() >= GONE_AFTER);
        if is_active(job.state) && !wanted.contains_key(id) && waited {
            changes.push(gone(job));
        }
    }
    changes.sort_by_key(|job| is_active(job.state));
    changes
}

fn gone(job: &Job) -> Job {
    let why = match (&job.host_id, job.state) {
        (None, _) | (_, JobState::Pending) => None,
        (Some(host), _) => Some(format!("host {host} is gone, or no longer knows the job")),
    };
    let end_reason = why.is_some().then_some(EndReason::HostLost);
    Job { state: JobState::Down, host_error: why, end_reason, run_at: None, ..job.clone() }
}

fn is_active(state: JobState) -> bool {
    match state {
        JobState::Pending | JobState::Starting | JobState::Up | JobState::Stopping => true,
        JobState::Down | JobState::Crashed => false,
    }
}

/// Whether the controller would say the same; times of its own do not count.
fn same(told: &Job, job: &Job) -> bool {
    let timeless = |job: &Job| Job { created_at: None, updated_at: None, ..job.clone() };
    timeless(told) == timeless(job)
}
