//! Deploying what this daemon itself stands on: its host replaces it in place.
//!
//! While the database is down there is nobody here who could start the next one, or the old one again. So processes of the
//! apps the cluster cannot do without that keep data on their host are not scaled down and up: the host of each is given
//! one order, which names the job that is replaced, and does the rest by itself. What came of it is asked of the host; only
//! then do the formations say what has happened already. They come last, when all else of the new release serves.

use std::collections::BTreeSet;

use api::{
    controller::{App, Job, JobState, META_SYSTEM_CRITICAL, Release},
    expand::process_job,
    host::{ActiveJob, META_IN_PLACE_OF, Status},
    id::{DeploymentId, JobId},
};
use host_client::Host;
use jiff::Timestamp;
use tracing::{debug, info};

use crate::{
    domain::deploy::{self, DeployState, Seen, Step},
    error::{Error, Result},
    server::Controller,
    store::{self, Counts},
};

/// What came of it so far.
pub(crate) enum Outcome {
    /// Nothing yet.
    Waits,
    /// The new one serves in the old one's place.
    Taken,
    /// The old one has its place again, and this is the one that failed.
    Failed(Box<Job>),
}

/// What is to be replaced by what.
pub(crate) struct Replacement<'a> {
    /// Whose.
    pub(crate) app: &'a App,
    /// The release that serves.
    pub(crate) old: &'a Release,
    /// The one that is to.
    pub(crate) new: &'a Release,
    /// The process type.
    pub(crate) kind: &'a str,
    /// For this deployment.
    pub(crate) deployment: DeploymentId,
    /// Which began then.
    pub(crate) began: Timestamp,
}

/// The process types that have yet to be replaced in place.
pub(crate) fn pending(
    app: &App,
    old: Option<&Release>,
    new: &Release,
    running: &Counts,
    target: &Counts,
) -> BTreeSet<String> {
    let Some(old) = old.filter(|_| app.meta.get(META_SYSTEM_CRITICAL).is_some_and(|v| v == "true"))
    else {
        return BTreeSet::new();
    };
    let keeps_data = |release: &Release, kind: &str| {
        release
            .processes
            .get(kind)
            .is_some_and(|process| !process.volumes.is_empty() && !process.omni)
    };
    let runs = |counts: &Counts, kind: &str| counts.get(kind).is_some_and(|count| *count > 0);
    let kinds = running.keys().filter(|kind| {
        let stays = runs(running, kind) && runs(target, kind);
        stays && keeps_data(old, kind) && keeps_data(new, kind)
    });
    kinds.cloned().collect()
}

/// What is next of a deployment as if these types were none of it; their counts stay as they are.
pub(crate) fn next_step(state: &DeployState, kinds: &BTreeSet<String>) -> Step {
    let as_before = |mut counts: Counts, before: &Counts| {
        let kept = before.iter().filter(|(kind, _)| kinds.contains(*kind));
        counts.extend(kept.map(|(kind, count)| (kind.clone(), *count)));
        counts
    };
    match deploy::next_step(&without(state, kinds)) {
        Step::Scale { old, new } => {
            Step::Scale { old: as_before(old, &state.old), new: as_before(new, &state.new) }
        }
        step => step,
    }
}

fn without(state: &DeployState, kinds: &BTreeSet<String>) -> DeployState {
    let keep = |counts: &Counts| -> Counts {
        let kept = counts.iter().filter(|(kind, _)| !kinds.contains(*kind));
        kept.map(|(kind, count)| (kind.clone(), *count)).collect()
    };
    let seen = Seen {
        new_up: keep(&state.seen.new_up),
        old_alive: keep(&state.seen.old_alive),
        old_up: keep(&state.seen.old_up),
        ..state.seen.clone()
    };
    DeployState {
        target: keep(&state.target),
        original: keep(&state.original),
        old: keep(&state.old),
        new: keep(&state.new),
        seen,
        ..state.clone()
    }
}

/// Orders the replacement, unless it was ordered before, and asks what came of it.
pub(crate) async fn replace(controller: &Controller, it: &Replacement<'_>) -> Result<Outcome> {
    let client = controller.db.client().await?;
    let artifacts = store::artifacts::in_order(&client, &it.new.artifacts).await?;
    let jobs = store::jobs::of_releases(&client, it.app.id, &[it.old.id], it.began).await?;
    drop(client);
    let mut outcome = Outcome::Waits;
    for old in jobs.iter().map(|reported| &reported.job).filter(|job| job.kind == it.kind) {
        let Some(host) = old.host_id.as_deref().and_then(|id| controller.neighbours.host(id).ok())
        else {
            continue;
        };
        let id = successor(it.deployment, old.uuid);
        let job = process_job(id, it.app, it.new, &artifacts, it.kind);
        let mut job = job.map_err(|err| Error::invalid("release", format!("cannot run: {err}")))?;
        job.replaces = Some(old.uuid);
        job.metadata.insert(META_IN_PLACE_OF.into(), it.old.id.to_string());
        match one(&host, old, &job).await {
            Ok(Some(Outcome::Taken)) => outcome = Outcome::Taken,
            Ok(Some(other)) => return Ok(other),
            Ok(None) => {}
            // The host is away, or cannot at the moment: nothing has changed.
            Err(err) => {
                debug!(error = &err as &dyn std::error::Error, job.id = %id, "the host is asked again");
                return Ok(Outcome::Waits);
            }
        }
    }
    Ok(outcome)
}

/// What came of the replacement of one job; nothing if it neither runs nor was ever replaced.
async fn one(
    host: &Host,
    old: &Job,
    new: &api::host::Job,
) -> Result<Option<Outcome>, api_client::Error> {
    let replaced = known(host, old.uuid).await?;
    let has_place = replaced.is_some_and(|old| old.status.is_active());
    let Some(trial) = known(host, new.id).await? else {
        if has_place {
            host.put_job(new).await?;
            info!(job.id = %new.id, "the host of job {} replaces it in place by job {}", old.uuid, new.id);
            return Ok(Some(Outcome::Waits));
        }
        return Ok(None);
    };
    Ok(Some(match trial.status {
        Status::Running if !has_place => Outcome::Taken,
        Status::Starting | Status::Running | Status::Stopping => Outcome::Waits,
        Status::Done | Status::Crashed | Status::Failed => {
            Outcome::Failed(Box::new(failed(old, &trial)))
        }
    }))
}

async fn known(host: &Host, id: JobId) -> Result<Option<ActiveJob>, api_client::Error> {
    match host.job(id).await {
        Err(err) if err.is_not_found() => Ok(None),
        job => job.map(Some),
    }
}

/// The id of the job that a deployment puts in another's place: the same whoever works the deployment.
fn successor(deployment: DeploymentId, old: JobId) -> JobId {
    let both = deployment.uuid().as_u128() ^ old.uuid().as_u128();
    uuid::Builder::from_random_bytes(both.to_be_bytes()).into_uuid().into()
}

fn failed(old: &Job, trial: &ActiveJob) -> Job {
    let uuid = trial.job.id;
    Job {
        id: format!("{}-{uuid}", trial.host_id),
        uuid,
        state: JobState::Crashed,
        exit_status: trial.exit_status,
        host_error: trial.error.clone(),
        end_reason: trial.end_reason,
        ..old.clone()
    }
}
