//! Whose the folders of a job's volumes are: who runs it, unless others are at work there.

use std::{io, path::PathBuf};

use api::{host::Job, id::JobId};
use tracing::warn;

use super::container::StartError;
use crate::{
    disk,
    domain::{spec::volume_dir, users},
    host::Host,
    volumes::folders::{blocking, holders},
};

/// Makes the folders of a job's volumes, and gives them to its user. One in which other jobs are at work as another user
/// stays theirs, for they serve: the answer is that user, as whom this one can work there beside them.
pub(super) async fn make_volumes(
    host: &Host,
    job: &Job,
    image_user: &str,
) -> Result<Option<u32>, StartError> {
    let own = users::of_volumes(job, image_user);
    let mut instead = None;
    let mut kept = Vec::new();
    for volume in &job.config.volumes {
        let failed = |source| StartError::Volume { volume: volume.name.clone(), source };
        let Some(owner) = owner(host, &volume.name).await.map_err(failed)? else { continue };
        if owner != own
            && let Some(by) = at_work(host, job, &volume.name, own).await?
        {
            let name = &volume.name;
            warn!(job.id = %job.id, "volume {name} stays user {owner}'s, by whom job {by} runs");
            kept.push(name);
            instead = instead.or(Some(owner).filter(|owner| !users::is_above(*owner)));
        }
    }
    let user = instead.unwrap_or(own);
    for volume in job.config.volumes.iter().filter(|volume| !kept.contains(&&volume.name)) {
        let folder = folder(host, &volume.name);
        let made = blocking(move || disk::user_dir(&folder, user)).await;
        made.map_err(|source| StartError::Volume { volume: volume.name.clone(), source })?;
    }
    Ok(instead)
}

fn folder(host: &Host, volume: &str) -> PathBuf {
    volume_dir(&host.folders.volumes(), volume)
}

async fn owner(host: &Host, volume: &str) -> io::Result<Option<u32>> {
    let folder = folder(host, volume);
    blocking(move || disk::owner(&folder)).await
}

/// A job whose process runs with a volume as another user: its files must not be taken from it.
async fn at_work(
    host: &Host,
    job: &Job,
    volume: &str,
    user: u32,
) -> Result<Option<JobId>, StartError> {
    for other in holders(&host.registry.active(), volume) {
        if other.job.id == job.id || other.container_id.is_empty() {
            continue;
        }
        let Some(found) = host.engine.container(&other.container_id).await? else { continue };
        let status = std::fs::read_to_string(format!("/proc/{}/status", found.pid));
        let runs_as_another =
            |status: String| users::of_process(&status).any(|theirs| theirs != user);
        if found.running && status.is_ok_and(runs_as_another) {
            return Ok(Some(other.job.id));
        }
    }
    Ok(None)
}
