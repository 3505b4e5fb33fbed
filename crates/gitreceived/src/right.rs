//! The right to push to a repository of a folder: among the pushes of this process, and among all processes that have the
//! repository, by whatever name. And what is still done under a right whose holder was killed, and who receives a push and has no
//! right yet.
//!
//! All are locks on folders of the repository, so that nothing is left in it, and the kernel lets go of them when their holder
//! ends, whichever way. Who acts for a holder and may outlive it has a lock of its own, and finds out whether the holder lives
//! once it has that lock. So the next holder, which waits for the lock, sees the repository in its final state.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::{sleep, timeout},
};
use tracing::warn;

use crate::{domain::command::RepoName, hosting::TURN_TIMEOUT};

/// Pause between two attempts to take what others have.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// What those that act under a right have locked, together.
const ACTING: &str = "refs";
/// What those that have a repository in use have locked, together.
const USED: &str = "objects";

/// The right to push, held.
#[derive(Debug)]
pub(crate) struct Right {
    _turn: OwnedMutexGuard<()>,
    /// None where the file system locks nothing.
    _lock: Option<File>,
}

/// A repository that stays as it is while this lives: nobody tidies it up.
#[derive(Debug)]
pub(crate) struct Use(File);

impl Use {
    /// Of a repository; nothing where the file system locks nothing.
    pub(crate) async fn begin(repo: &Path) -> Option<Self> {
        let used = Self(File::open(repo.join(USED)).ok()?);
        used.share().await.then_some(used)
    }

    /// Takes it for this alone, if no other process uses it.
    pub(crate) fn take_alone(&self) -> bool {
        self.0.try_lock().is_ok()
    }

    /// Lets others use it too. Whoever has it alone has it for seconds.
    pub(crate) async fn share(&self) -> bool {
        let sharing = async {
            loop {
                match self.0.try_lock_shared() {
                    Err(TryLockError::WouldBlock) => sleep(RETRY_INTERVAL).await,
                    shared => return shared.is_ok(),
                }
            }
        };
        timeout(TURN_TIMEOUT, sharing).await.unwrap_or(false)
    }
}

/// Who has what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Other {
    /// Another push.
    Push,
    /// What another push left that was broken off.
    Rest,
}

/// Waits a minute at most for the right; calls `busy` once if it has to wait.
pub(crate) async fn take(
    turn: Arc<Mutex<()>>,
    repo: &Path,
    name: &RepoName,
    busy: impl AsyncFnOnce(),
) -> Result<Right, String> {
    let (mut busy, is_rest) = (Some(busy), AtomicBool::new(false));
    let taking = async {
        let own = match turn.clone().try_lock_owned() {
            Ok(own) => own,
            Err(_) => {
                if let Some(busy) = busy.take() {
                    busy().await;
                }
                turn.lock_owned().await
            }
        };
        loop {
            match try_lock(repo) {
                Ok(lock) => return Right { _turn: own, _lock: lock },
                Err(who) => is_rest.store(who == Other::Rest, Ordering::Relaxed),
            }
            if let Some(busy) = busy.take() {
                busy().await;
            }
            sleep(RETRY_INTERVAL).await;
        }
    };
    timeout(TURN_TIMEOUT, taking).await.map_err(|_| match is_rest.load(Ordering::Relaxed) {
        false => {
            format!("Another push to {name} is still under way. Try again when it has ended.")
        }
        true => format!(
            "A push to {name} whose gitreceived was killed has not ended yet. Nothing was changed; try again in a minute, and if that does \
             not help, tell the person who runs this server."
        ),
    })
}

/// The lock of a repository, or who has it; nothing where there are no locks.
pub(crate) fn try_lock(repo: &Path) -> Result<Option<File>, Other> {
    let lock = |dir: &Path, other| {
        let file = File::open(dir).map_err(TryLockError::Error);
        match file.and_then(|file| file.try_lock().map(|()| file)) {
            Ok(file) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Err(other),
            Err(TryLockError::Error(err)) => {
                warn!(error = %err, "{} cannot be locked: see to it that one gitreceived uses it", dir.display());
                Ok(None)
            }
        }
    };
    let taken = lock(repo, Other::Push)?;
    // Nobody starts to act from here on: the previous holder has released the right.
    lock(&repo.join(ACTING), Other::Rest)?;
    Ok(taken)
}

/// Keeps the next holder of the right waiting while this lives. Whoever calls it finds out afterwards whether its own holder
/// lives, and otherwise does nothing.
pub(crate) fn act(repo: &Path) -> io::Result<File> {
    let file = File::open(repo.join(ACTING))?;
    file.lock_shared()?;
    Ok(file)
}
