//! Replacement in place: a job that takes the place of another on the same host, or leaves it to it.
//!
//! What the cluster stands on cannot be replaced by those who stand on it: while Postgres is down there is no controller
//! that could start the next. So the order names the job that is replaced, and the host does the rest by itself. How far
//! it has come is not written down anywhere, it follows from the two jobs:
//!
//! | new | old | |
//! |---|---|---|
//! | active | active | the new one is on trial: its first end is its last |
//! | active | ended | it has taken the place |
//! | ended | active | the old one keeps the place, or starts again in it |
//!
//! A new one that shares a volume with the old one has the old one make way for the length of the trial: a volume has one
//! writer.

use std::sync::Arc;

use api::{
    host::{ActiveJob, Job, Status},
    id::JobId,
    validate::Invalid,
};
use tokio::time::sleep;
use tracing::info;

use super::{registry::Registry, restore::TakenUp};
use crate::{
    domain::{job::Observed, replace::shares_volume},
    host::Host,
};

/// Whether a new job may replace the one it names.
pub(crate) fn check(registry: &Registry, job: &Job) -> Result<(), Invalid> {
    let Some(old) = job.replaces else { return Ok(()) };
    let bad = |problem: String| Err(Invalid { field: "replaces", problem });
    if old == job.id {
        return bad("names the job itself".into());
    }
    let active = registry.active();
    if let Some(other) = active.iter().find(|other| other.job.replaces == Some(old)) {
        let other = other.job.id;
        return bad(format!("names job {old}, which job {other} is replacing already"));
    }
    match active.iter().find(|one| one.job.id == old) {
        Some(one) if one.status != Status::Stopping => Ok(()),
        _ => bad(format!("names job {old}, which does not run on this host")),
    }
}

/// Decides the trial of a job that replaces another. Returns when the job, or the trial, is over.
pub(super) async fn decide(host: &Arc<Host>, id: JobId) {
    let registry = &host.registry;
    let Some(old) = registry.job(id).and_then(|job| job.job.replaces) else { return };
    loop {
        let passed = |job: &ActiveJob| job.status == Status::Running || !job.status.is_active();
        registry.until(id, passed).await;
        let over = |job: &ActiveJob| job.status != Status::Running;
        tokio::select! {
            biased;
            () = registry.until_tried(id) => return,
            () = registry.until(id, over) => {}
            // What crashes right after its check has passed is not healthy.
            () = sleep(host.settings.settle) => {
                if registry.hand_over(old, id) {
                    info!(job.id = %id, "job {id} has taken the place of job {old}");
                    return;
                }
            }
        }
        if registry.job(id).is_none_or(|job| !job.status.is_active()) {
            return;
        }
    }
}

/// Goes on with replacements that were under way when this daemon's predecessor ended.
pub(super) fn resume(host: &Host, jobs: &[TakenUp]) {
    let one = |id: JobId| jobs.iter().find(|one| one.active.job.id == id);
    for new in jobs {
        let Some(old) = new.active.job.replaces.and_then(one) else { continue };
        // Unless the old one was not asked yet.
        let turn = new.container.is_some() || old.container.is_none();
        if turn && shares_volume(&new.active.job, &old.active.job) {
            host.registry.ask_to_make_way(old.active.job.id, new.active.job.id);
        }
    }
}

/// Has the job that `id` replaces make way, if the two cannot run at the same time, and waits until it has.
pub(super) async fn take_turn(host: &Arc<Host>, id: JobId) {
    let registry = &host.registry;
    let Some(new) = registry.job(id) else { return };
    let Some(old) = new.job.replaces.and_then(|old| registry.job(old)) else { return };
    if shares_volume(&new.job, &old.job) && old.status.is_active() {
        let old = old.job.id;
        info!(job.id = %old, "job {old} makes way for job {id}");
        registry.ask_to_make_way(old, id);
        registry.until_at_rest(old).await;
    }
}

/// Leaves the place to the job that tries to take it, if there is one: returns when this one may run, or is to stop.
pub(super) async fn rest(host: &Host, id: JobId) {
    let registry = &host.registry;
    let Some(by) = registry.makes_way_for(id) else { return };
    registry.rests(id, true);
    // Over as well when this one is told to stop: then nobody is on trial for its place.
    registry.until_tried(by).await;
    registry.rests(id, false);
}

/// Says that a job makes way, before its process ends, and for whom.
pub(super) fn begin_to_rest(host: &Host, id: JobId) -> Option<JobId> {
    let by = host.registry.makes_way_for(id)?;
    host.registry.observe(id, Observed::Failing { because: sentence(by) });
    Some(by)
}

/// Said of a job that makes way.
pub(super) fn sentence(by: JobId) -> String {
    format!("job {by} takes its place, and leaves it again if it does not come to serve")
}
