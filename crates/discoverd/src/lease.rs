//! The one lease that carries all instances of this host.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use keyspace::{Error, Keyspace, Lease, LeaseId};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{registrar::Registrar, store::Store};

/// How long after our last sign of life our host's instances vanish.
const TTL: Duration = Duration::from_secs(5);
/// How often we give one.
const RENEWAL: Duration = Duration::from_millis(1500);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_millis(500);
/// Name of the file in the state folder.
const FILE: &str = "lease.json";

/// What a restarted discoverd goes on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    lease: String,
    boot_id: String,
}

/// Remembers the lease across restarts, if there is a folder for it.
#[derive(Debug, Clone)]
pub(crate) struct Notebook {
    pub(crate) folder: Option<PathBuf>,
    pub(crate) boot_id: String,
}

impl Notebook {
    fn read(&self) -> Option<Noted> {
        let bytes = std::fs::read(self.folder.as_ref()?.join(FILE)).ok()?;
        // A file that cannot be read is that of a power failure in the middle of the first write.
        serde_json::from_slice(&bytes).ok()
    }

    fn write(&self, lease: LeaseId) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let noted = Noted { lease: lease.to_string(), boot_id: self.boot_id.clone() };
        replace(folder, &serde_json::to_vec(&noted)?)
    }
}

/// Replaces the file so that there is always the old or the new one, whole.
fn replace(folder: &Path, bytes: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let new = folder.join(format!("{FILE}.new"));
    let mut file = std::fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, folder.join(FILE))?;
    std::fs::File::open(folder)?.sync_all()
}

/// Keeps a lease until the daemon stops: goes on with that of an earlier process, else makes a new one; when it is lost
/// makes another. It is published once it exists, so nothing is registered before what the previous boot left is gone.
pub(crate) async fn keep(
    store: Store,
    notebook: Notebook,
    registrar: Registrar,
    published: watch::Sender<Option<LeaseId>>,
    stop: CancellationToken,
) {
    let kept = async {
        let mut lease = patiently("going on with a lease", || begin(&store, &notebook)).await;
        loop {
            published.send_replace(Some(lease.id()));
            renew_until_gone(&mut lease).await;
            warn!(lease = %lease.id(), "the lease {} has run out; registering all instances anew", lease.id());
            published.send_replace(None);
            registrar.lease_ended(lease.id());
            lease = patiently("making a lease", || grant(&store.keyspace, &notebook)).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = kept => {}
    }
}

async fn renew_until_gone(lease: &mut Lease) {
    let mut tick = interval(RENEWAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        while let Err(err) = lease.renew().await {
            if matches!(err, Error::LeaseGone { .. }) {
                return;
            }
            // The lease ends if this lasts, and etcd will say so; the watch already says that etcd is away.
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn begin(store: &Store, notebook: &Notebook) -> Result<Lease, LeaseFailure> {
    let noted = notebook.read().and_then(|noted| Some((noted.lease.parse().ok()?, noted)));
    if let Some((id, noted)) = noted {
        if noted.boot_id != notebook.boot_id {
            store.withdraw_lease(id).await?;
            info!(lease = %id, "withdrew everything registered before the host booted (lease {id})");
        } else if store.keyspace.remaining(id).await?.is_some() {
            info!(lease = %id, "going on with lease {id} of an earlier process");
            return Ok(store.keyspace.lease(id));
        }
    }
    grant(&store.keyspace, notebook).await
}

async fn grant(keyspace: &Keyspace, notebook: &Notebook) -> Result<Lease, LeaseFailure> {
    let lease = keyspace.grant(TTL).await?;
    notebook.write(lease.id()).map_err(LeaseFailure::Notebook)?;
    info!(lease = %lease.id(), "made lease {}", lease.id());
    Ok(lease)
}

#[derive(Debug, thiserror::Error)]
enum LeaseFailure {
    #[error(transparent)]
    Etcd(#[from] Error),
    #[error("the lease cannot be noted in the state folder; make it writable for this user")]
    Notebook(#[source] io::Error),
}

async fn patiently<F>(doing: &str, mut attempt: impl FnMut() -> F) -> Lease
where
    F: Future<Output = Result<Lease, LeaseFailure>>,
{
    let mut warned = false;
    loop {
        match attempt().await {
            Ok(lease) => return lease,
            Err(err) if !std::mem::replace(&mut warned, true) => {
                warn!(
                    error = &err as &dyn std::error::Error,
                    "{doing} failed; trying until it succeeds"
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_noted_with_the_boot_it_belongs_to() {
        let folder = tempfile::tempdir().unwrap();
        let notebook =
            Notebook { folder: Some(folder.path().join("state")), boot_id: "one".into() };
        assert_eq!(notebook.read(), None);
        let lease: LeaseId = "2a".parse().unwrap();
        notebook.write(lease).unwrap();
        let noted = notebook.read().unwrap();
        assert_eq!((noted.lease.parse(), noted.boot_id.as_str()), (Ok(lease), "one"));
        std::fs::write(folder.path().join("state").join(FILE), "{").unwrap();
        assert_eq!(notebook.read(), None, "half a file is no file");
    }
}
