//! The folders of this host's volumes: which there are, and how one goes.

use std::{
    collections::BTreeSet,
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use api::{
    host::{ActiveJob, META_APP_NAME, META_TYPE},
    id::JobId,
    validate::is_volume_name,
};
use daemon::WorkPanicked;
use tracing::{info, warn};

use super::Going;
use crate::host::Host;

/// Folders of volumes that are being removed begin so; no volume's name does.
const GOING: &str = ".going-";

/// The volumes there are, and folders of those that were to be removed when the daemon ended.
pub(crate) fn listed(folder: &Path) -> io::Result<(BTreeSet<String>, Vec<PathBuf>)> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
        Err(err) => return Err(err),
    };
    let (mut volumes, mut going) = (BTreeSet::new(), Vec::new());
    for entry in entries {
        let entry = entry?;
        match entry.file_name().into_string() {
            Ok(name) if name.starts_with(GOING) => going.push(entry.path()),
            Ok(name) if is_volume_name(&name) => _ = volumes.insert(name),
            // Whatever it is, no job made it.
            _ => {}
        }
    }
    Ok((volumes, going))
}

/// A volume whose name is free, but for what the cluster knows of it.
#[derive(Debug)]
pub(crate) struct Aside<'a> {
    /// Where its files are.
    pub(crate) folder: PathBuf,
    going: Option<Going<'a>>,
}

/// Takes a volume away from its name, so that its files can go while others come. Nobody may come to have it meanwhile.
pub(crate) fn set_aside<'a>(host: &'a Host, name: &str) -> io::Result<Aside<'a>> {
    let folder = host.folders.volumes();
    // The files of one that had the same name may still be going.
    let aside = folder.join(format!("{GOING}{name}.{}", JobId::random()));
    fs::rename(folder.join(name), &aside)?;
    Ok(Aside { folder: aside, going: host.volumes.give_up(name) })
}

/// Tells the cluster that a volume is gone; answers where its files are. While etcd is away it still counts as this host's,
/// until the garbage is looked at.
pub(crate) async fn let_go(host: &Host, aside: Aside<'_>) -> PathBuf {
    if let Some(going) = aside.going
        && let Err(err) = host.volumes.release(going).await
    {
        warn!(error = &err as &dyn Error, "a volume that is gone still counts as this host's");
    }
    aside.folder
}

/// Does what waits for the disk elsewhere.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten()
}

/// A volume was not removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoveError {
    /// There is none.
    #[error("this host has no volume {0}")]
    Missing(String),
    /// A job has it.
    #[error("{volume} is in use by job {job}{of}: stop that first")]
    InUse {
        /// The volume.
        volume: String,
        /// Who has it.
        job: JobId,
        /// Whose that is, in words.
        of: String,
    },
    /// The disk does not obey.
    #[error("the folder of volume {volume} could not be moved")]
    Io {
        /// The volume.
        volume: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A bug of ours.
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
}

/// Removes a volume that no job has; its files go in the background. Once begun it is finished, also when whoever asked is
/// gone.
pub(crate) async fn remove(host: &Arc<Host>, name: &str) -> Result<(), RemoveError> {
    let (host, name) = (host.clone(), name.to_owned());
    let lifetime = host.lifetime.clone();
    lifetime.carry_out(async move { take_away(&host, &name).await }).await?
}

async fn take_away(host: &Arc<Host>, name: &str) -> Result<(), RemoveError> {
    if !is_volume_name(name) {
        return Err(RemoveError::Missing(name.into()));
    }
    // No job is accepted meanwhile, so none comes to have it.
    let nobody_comes = host.accepting.lock().await;
    if let Some(active) = holders(&host.registry.active(), name).next() {
        let of = active.job.metadata.get(META_APP_NAME).map(|app| {
            let kind = active.job.metadata.get(META_TYPE);
            kind.map_or_else(|| format!(" of {app}"), |kind| format!(" ({kind} of {app})"))
        });
        let (volume, job) = (name.to_owned(), active.job.id);
        return Err(RemoveError::InUse { volume, job, of: of.unwrap_or_default() });
    }
    let aside = set_aside(host, name).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => RemoveError::Missing(name.into()),
        _ => RemoveError::Io { volume: name.into(), source },
    })?;
    drop(nobody_comes);
    let aside = let_go(host, aside).await;
    info!(volume = %name, "removing volume {name}: somebody asked for it");
    host.lifetime.spawn_drained(async move {
        // What is left of it goes with the garbage.
        if let Err(err) = blocking(move || fs::remove_dir_all(aside)).await {
            warn!(error = &err as &dyn Error, "a volume is not wholly removed yet");
        }
    });
    Ok(())
}

/// The jobs that have a volume.
pub(crate) fn holders<'a>(
    active: &'a [ActiveJob],
    name: &str,
) -> impl Iterator<Item = &'a ActiveJob> {
    let has = move |job: &&ActiveJob| job.job.config.volumes.iter().any(|v| v.name == name);
    active.iter().filter(has)
}
