//! The private directory of a gitreceived: its hooks, and the sockets of its pushes.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::{Mutex, PoisonError},
};

use rustix::process::geteuid;
use tempfile::TempDir;

use crate::{disk, hook};

/// What it is called, with something behind that no other is.
const PREFIX: &str = "gitreceived-";
/// File in it that its gitreceived has locked.
const LOCK: &str = "lock";

/// A directory that goes with its gitreceived.
#[derive(Debug)]
pub(crate) struct RunDir {
    dir: TempDir,
    /// Says to others that we live.
    lock: Mutex<File>,
}

impl RunDir {
    /// Makes one with the hooks: this program under their names. (Not a script, for programs may not be run from a temporary
    /// directory everywhere, and a link to one may.) Those of gitreceiveds that were killed are removed.
    pub(crate) fn new(program: &Path, temp: &Path) -> io::Result<Self> {
        // git runs the hooks in another directory than ours.
        let temp = temp.canonicalize()?;
        for entry in fs::read_dir(&temp)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_stale(&entry.path()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let private = fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(temp)?;
        let lock = Mutex::new(make_lock(dir.path())?);
        hook::check(dir.path(), program)?;
        Ok(Self { dir, lock })
    }

    /// Makes again what something that cleans up has removed of it.
    pub(crate) fn check(&self, program: &Path) -> io::Result<()> {
        hook::check(self.path(), program)?;
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !disk::is_at(&lock, &self.path().join(LOCK)) {
            *lock = make_lock(self.path())?;
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn make_lock(dir: &Path) -> io::Result<File> {
    // Nobody sees it before it is locked.
    let unseen = dir.join("new");
    let lock = File::create(&unseen)?;
    // Where that cannot be done the directory is left, should we be killed.
    match lock.try_lock() {
        Ok(()) => fs::rename(unseen, dir.join(LOCK))?,
        Err(_) => fs::remove_file(unseen)?,
    }
    Ok(lock)
}

/// Whether this is the directory of a gitreceived of ours that has ended. The kernel unlocks what a process had locked.
fn is_stale(dir: &Path) -> bool {
    let is_ours = |meta: fs::Metadata| meta.is_dir() && meta.uid() == geteuid().as_raw();
    dir.symlink_metadata().is_ok_and(is_ours)
        && File::open(dir.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_one_left_goes_and_what_a_living_one_has_stays() {
        let temp = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        let killed = RunDir::new(&program, temp.path()).unwrap();
        let (left, living) =
            (killed.path().to_owned(), RunDir::new(&program, temp.path()).unwrap());
        assert!(left.exists());
        // It was removed and made again meanwhile.
        fs::remove_dir_all(&left).unwrap();
        killed.check(&program).unwrap();
        assert!(!is_stale(&left));
        let RunDir { dir, lock } = killed;
        let _ = dir.keep();
        drop(lock);
        let another = temp.path().join("gitreceived-notes");
        fs::create_dir(&another).unwrap();
        let third = RunDir::new(&program, temp.path()).unwrap();
        assert!(!left.exists() && living.path().exists() && another.exists());
        assert!(third.path().join("pre-receive").exists());
    }
}
