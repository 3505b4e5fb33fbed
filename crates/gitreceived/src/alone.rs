//! Without a cluster: the repositories are the folder's, and nothing is kept anywhere else.

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::controller::Repository;
use rustix::{
    fs::{Access, access},
    io::Errno,
    process::geteuid,
};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::{
    disk,
    domain::command::RepoName,
    git::{self, Git, GitError},
    place,
    repos::{self, Copy, Uses},
};

/// File of the folder that its gitreceived has locked; no repository has such a name.
const LOCK: &str = ".lock";
/// Longest time to wait for another gitreceived in the same folder to end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two attempts to lock it.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);

/// Takes a folder for this process alone. Nothing if another has it.
pub(crate) async fn lock(dir: &Path) -> io::Result<Option<File>> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match try_lock(dir)? {
            None if Instant::now() < deadline => sleep(LOCK_INTERVAL).await,
            taken => return Ok(taken),
        }
    }
}

fn try_lock(dir: &Path) -> io::Result<Option<File>> {
    fs::create_dir_all(dir)?;
    let lock = File::create(dir.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(err)) => {
            warn!(error = %err, "{} cannot be locked: see to it that one gitreceived uses it", dir.display());
            Ok(Some(lock))
        }
    }
}

/// Repositories of a folder.
#[derive(Debug)]
pub(crate) struct Alone {
    dir: PathBuf,
    git: Git,
    uses: Uses,
    turns: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
    /// Says that the folder is ours.
    lock: Mutex<File>,
}

impl Alone {
    /// Of a folder that is locked.
    pub(crate) fn new(dir: PathBuf, git: Git, uses: Uses, lock: File) -> Self {
        Self { dir, git, uses, turns: Mutex::default(), lock: Mutex::new(lock) }
    }

    /// Makes sure that the folder is ours, or says why a push cannot be: something that cleans up may have removed the lock,
    /// and another gitreceived have one since.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if disk::is_at(&lock, &self.dir.join(LOCK)) {
            return Ok(());
        }
        let why = match try_lock(&self.dir) {
            Ok(Some(taken)) => {
                *lock = taken;
                return Ok(());
            }
            Ok(None) => "Another gitreceived uses the folder of the repositories by now".into(),
            Err(err) => format!("The folder of the repositories cannot be locked: {err}"),
        };
        warn!("{why}; no push is taken to {}", self.dir.display());
        Err(format!("{why}. Nothing was changed; tell the person who runs this server."))
    }

    /// The repository of a name, which its first push makes; the inner error is a sentence that says why it takes none.
    pub(crate) async fn prepare(&self, name: &RepoName) -> Result<Result<Copy, String>, GitError> {
        // It may be a link, or in a folder that is one; git tells where it is.
        let refused = |why| {
            format!(
                "The repository of {name} takes no push: {why} Nothing was changed; tell the person who runs this server."
            )
        };
        let path = match place::resolve(&self.dir.join(format!("{name}.git"))) {
            Ok(path) => path,
            Err(why) => return Ok(Err(refused(why))),
        };
        if let Some(why) = why_unfit(&path) {
            return Ok(Err(refused(why)));
        }
        let mut copy = self.uses.begin(&path);
        if let Err(why) = copy.begin(&self.git).await? {
            return Ok(Err(refused(why)));
        }
        // git would say no more than that it cannot make a folder.
        if access(&path, Access::WRITE_OK) == Err(Errno::ROFS) {
            let why = format!("the file system of {} is read-only.", path.display());
            return Ok(Err(refused(why)));
        }
        Ok(Ok(copy))
    }

    /// The right to push to a repository among the pushes of this process.
    pub(crate) fn turn(&self, copy: &Copy) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are with nobody are forgotten.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(copy.path.clone()).or_default().clone()
    }

    /// What a repository is now; its head is where the branch that is pushed is.
    pub(crate) async fn current(
        &self,
        copy: &Copy,
        branch: Option<&str>,
    ) -> Result<Repository, GitError> {
        let refs = repos::refs(&self.git, &copy.path).await?;
        let head = branch.and_then(|branch| refs.get(branch).cloned());
        Ok(Repository { head, packs: Vec::new(), refs })
    }
}

/// Why git would take no push to a repository at a path.
fn why_unfit(path: &Path) -> Option<String> {
    if !git::can_be_quarantined(path) {
        return Some(format!("{} has a colon, a quote or no UTF-8 in it.", path.display()));
    }
    // One that is not there yet will be ours.
    let owner = path.metadata().ok()?.uid();
    let us = geteuid().as_raw();
    (owner != us).then(|| {
        format!(
            "{} belongs to user {owner} and must belong to user {us}, who runs gitreceived (chown -R {us} {0}).",
            path.display()
        )
    })
}
