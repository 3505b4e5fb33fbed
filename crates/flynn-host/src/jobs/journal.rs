//! The journal: a file a job, written before anything is done for it.
//!
//! The containers are the database of what runs. The journal adds what no container says: orders accepted whose
//! container is not made yet, stops under way, and how ended jobs ended.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use api::{host::ActiveJob, id::JobId};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::disk::{self, Durable};

/// A job as the journal and the container's label keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The job.
    pub(crate) job: ActiveJob,
    /// The boot in which it was accepted.
    pub(crate) boot_id: String,
}

/// The folder of the journal.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    folder: PathBuf,
}

impl Journal {
    /// Opens it.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        disk::private_dir(folder)?;
        Ok(Self { folder: folder.into() })
    }

    fn path(&self, job: JobId) -> PathBuf {
        self.folder.join(format!("{job}.json"))
    }

    /// Writes an entry.
    pub(crate) fn write(&self, entry: &Entry, durable: Durable) -> io::Result<()> {
        disk::write_json(&self.path(entry.job.job.id), entry, durable)
    }

    /// Forgets a job.
    pub(crate) fn remove(&self, job: JobId) -> io::Result<()> {
        match fs::remove_file(self.path(job)) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        }
    }

    /// Every entry. One that cannot be read is left where it is and reported: its job may still be a container.
    pub(crate) fn read(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let path = file?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match disk::read_json::<Entry>(&path) {
                Ok(entry) => entries.extend(entry),
                Err(err) => warn!(error = %err, "an entry of the journal cannot be read"),
            }
        }
        Ok(entries)
    }
}
