//! The address pool with its file.

use std::{
    io,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use api::{host::Job, id::JobId};
use jiff::Timestamp;
use tracing::error;

use crate::{
    disk::{self, Durable},
    domain::{
        addresses::{NoRoom, Pool, kind},
        net::Cidr,
    },
};

/// The rotation is saved so many addresses ahead, so that a start seldom waits for the disk.
const AHEAD: u32 = 16;

/// Addresses of jobs, kept on disk.
#[derive(Debug)]
pub(crate) struct Addresses {
    inner: Mutex<Inner>,
    path: PathBuf,
}

#[derive(Debug)]
struct Inner {
    pool: Pool,
    /// Addresses that may be taken before the file is written again.
    left: u32,
}

impl Addresses {
    /// Goes on where the file left off.
    pub(crate) fn open(path: PathBuf, subnet: Cidr, quarantine: Duration) -> io::Result<Self> {
        let saved = disk::read_json(&path)?.unwrap_or_default();
        let pool = Pool::new(subnet, quarantine, saved);
        Ok(Self { inner: Mutex::new(Inner { pool, left: 0 }), path })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn save(&self, inner: &mut Inner) {
        match disk::write_json(&self.path, &inner.pool.saved(AHEAD), Durable::Synced) {
            Ok(()) => inner.left = AHEAD,
            Err(err) => error!(error = %err, "the addresses could not be saved"),
        }
    }

    /// Gives a job an address.
    pub(crate) fn take(&self, job: &Job) -> Result<Ipv4Addr, NoRoom> {
        self.with(|inner| {
            let address = inner.pool.take(job.id, kind(job).as_deref(), Timestamp::now())?;
            if inner.left == 0 {
                self.save(inner);
            }
            inner.left = inner.left.saturating_sub(1);
            Ok(address)
        })
    }

    /// Notes that a job has an address; `false` if another job has it.
    pub(crate) fn claim(&self, job: JobId, address: Ipv4Addr) -> bool {
        self.with(|inner| inner.pool.claim(job, address))
    }

    /// Takes an address back from what had it. `acknowledged`: no router ever knew it.
    pub(crate) fn free(&self, address: Ipv4Addr, kind: Option<String>, acknowledged: bool) {
        self.with(|inner| {
            inner.pool.free(address, kind, Timestamp::now(), acknowledged);
            self.save(inner);
        });
    }

    /// Notes that every router knows that the address is free.
    pub(crate) fn acknowledge(&self, address: Ipv4Addr) {
        self.with(|inner| {
            inner.pool.acknowledge(address);
            self.save(inner);
        });
    }

    /// Addresses in use with their jobs.
    pub(crate) fn owners(&self) -> Vec<(Ipv4Addr, JobId)> {
        self.with(|inner| inner.pool.owners().iter().map(|(a, j)| (*a, *j)).collect())
    }
}
