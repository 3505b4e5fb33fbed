//! Signed URLs work once. What is spent is remembered in a directory until it would have expired anyway, so also by a
//! shelf that was killed meanwhile. (A power failure may forget the last moments: it then works a second time, at most.)
//! The note is made before the work and becomes the memory by a change of its name: where the disk is full nothing begins,
//! so nothing that was done is forgotten.

use std::{
    collections::HashSet,
    fs, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use api::blob::Grant;

/// No URL is valid for longer, so that nothing is remembered for longer.
const VALID_MAX_SECONDS: u64 = 86_400;
/// A download whose last byte was sent may be had again for so long: that it was sent does not say that it arrived.
const REPEATABLE: Duration = Duration::from_secs(60);
/// Ends the name of the note of a URL in use.
const IN_USE: &str = ".using";
/// Longest nonce.
const NONCE_LEN_MAX: usize = 64;

/// Why a signed URL is refused although its signature is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("this URL has expired")]
    Expired,
    #[error("this URL is valid for longer than a day, or its nonce cannot be used")]
    Unusable,
    #[error("this URL was used already: each works once")]
    Spent,
    #[error("this URL is being used by another request")]
    InUse,
    #[error("that this URL is used cannot be written down: is shelf's disk full?")]
    Unrecorded,
}

/// All that is spent or in use.
#[derive(Debug)]
pub(crate) struct Grants {
    dir: PathBuf,
    in_use: Mutex<HashSet<String>>,
}

impl Grants {
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)?.flatten() {
            // Of a shelf that was killed: what was under way then was not done.
            if entry.file_name().to_string_lossy().ends_with(IN_USE) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { dir, in_use: Mutex::default() })
    }

    /// Takes a grant into use: nobody else can until the claim is dropped, and never again once it is spent.
    pub(crate) fn claim(self: &Arc<Self>, grant: &Grant, now: u64) -> Result<Claim, Refusal> {
        let Grant { expires, nonce, .. } = grant;
        let hex = nonce.bytes().all(|b| b.is_ascii_hexdigit());
        if *expires <= now {
            return Err(Refusal::Expired);
        }
        if expires - now > VALID_MAX_SECONDS
            || nonce.is_empty()
            || nonce.len() > NONCE_LEN_MAX
            || !hex
        {
            return Err(Refusal::Unusable);
        }
        let name = format!("{expires}-{nonce}");
        if !self.in_use().insert(name.clone()) {
            return Err(Refusal::InUse);
        }
        let claim = Claim { grants: self.clone(), name, spent: AtomicBool::new(false) };
        if claim.is_spent(grant.method == "GET") {
            return Err(Refusal::Spent);
        }
        if let Err(err) = fs::File::create(claim.note()) {
            tracing::error!(error = &err as &dyn std::error::Error, "a URL in use cannot be noted");
            return Err(Refusal::Unrecorded);
        }
        Ok(claim)
    }

    /// Forgets what has expired.
    pub(crate) fn forget_expired(&self, now: u64) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let expires = name.to_str().and_then(|name| name.split_once('-')?.0.parse().ok());
            let in_use = name.to_str().is_some_and(|name| name.ends_with(IN_USE));
            if !in_use && expires.is_none_or(|expires: u64| expires <= now) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn in_use(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A grant in use. Dropped, it may be used again; unless it was spent.
#[derive(Debug)]
pub(crate) struct Claim {
    grants: Arc<Grants>,
    name: String,
    spent: AtomicBool,
}

impl Claim {
    fn file(&self) -> PathBuf {
        self.grants.dir.join(&self.name)
    }

    /// Whether it was done before; of a download, so long ago that nobody repeats it because its end was cut off.
    fn is_spent(&self, repeatable: bool) -> bool {
        let Ok(spent) = fs::metadata(self.file()) else { return false };
        let young = |at: SystemTime| at.elapsed().is_ok_and(|ago| ago < REPEATABLE);
        !(repeatable && spent.modified().is_ok_and(young))
    }

    fn note(&self) -> PathBuf {
        self.grants.dir.join(format!("{}{IN_USE}", self.name))
    }

    /// Makes the note the memory, which is as old as the end of the work, however long that took.
    fn remember(&self) -> io::Result<()> {
        let aged = fs::File::options().write(true).open(self.note());
        if let Err(err) = aged.and_then(|note| note.set_modified(SystemTime::now())) {
            tracing::warn!(error = %err, "when the URL {} was spent is not known", self.name);
        }
        fs::rename(self.note(), self.file())
    }

    /// It has done what it was for.
    pub(crate) fn spend(&self) {
        self.spent.store(true, Ordering::Relaxed);
        // What is had again stays as old as it is.
        let remembered = self.file().exists() || self.remember().is_ok();
        if !remembered {
            tracing::error!("the spent URL {} is remembered by this process only", self.name);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // A spent one that could not be written down stays in use: it works no second time.
        if self.spent.load(Ordering::Relaxed) && !self.file().exists() {
            return;
        }
        let _ = fs::remove_file(self.note());
        self.grants.in_use().remove(&self.name);
    }
}

/// Unix time in seconds.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(expires: u64, nonce: &str) -> Grant {
        Grant { method: "PUT".into(), expires, limit: 1, nonce: nonce.into() }
    }

    #[test]
    fn a_grant_is_good_for_one_success_and_any_number_of_failures() {
        let dir = tempfile::tempdir().unwrap();
        let grants = Arc::new(Grants::open(dir.path().into()).unwrap());
        let claim = grants.claim(&grant(100, "ab"), 50).unwrap();
        assert_eq!(grants.claim(&grant(100, "ab"), 50).unwrap_err(), Refusal::InUse);
        drop(claim);
        grants.claim(&grant(100, "ab"), 50).unwrap().spend();
        assert_eq!(grants.claim(&grant(100, "ab"), 50).unwrap_err(), Refusal::Spent);
        let restarted = Arc::new(Grants::open(dir.path().into()).unwrap());
        assert_eq!(restarted.claim(&grant(100, "ab"), 50).unwrap_err(), Refusal::Spent);
        restarted.forget_expired(99);
        assert_eq!(restarted.claim(&grant(100, "ab"), 50).unwrap_err(), Refusal::Spent);
        restarted.forget_expired(100);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(restarted.claim(&grant(100, "ab"), 100).unwrap_err(), Refusal::Expired);
        assert_eq!(grants.claim(&grant(100_000, "ab"), 50).unwrap_err(), Refusal::Unusable);
        assert_eq!(grants.claim(&grant(100, "../a"), 50).unwrap_err(), Refusal::Unusable);
    }

    #[test]
    fn a_download_whose_end_may_not_have_arrived_can_be_had_again_for_a_moment_only() {
        let dir = tempfile::tempdir().unwrap();
        let grants = Arc::new(Grants::open(dir.path().into()).unwrap());
        let get = Grant { method: "GET".into(), ..grant(100, "ab") };
        for _ in 0..3 {
            grants.claim(&get, 50).unwrap().spend();
        }
        let spent = fs::File::open(dir.path().join("100-ab")).unwrap();
        spent.set_modified(SystemTime::now() - REPEATABLE).unwrap();
        assert_eq!(grants.claim(&get, 50).unwrap_err(), Refusal::Spent);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no note stays behind");
    }

    #[test]
    fn a_download_that_took_long_can_be_had_again_as_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let grants = Arc::new(Grants::open(dir.path().into()).unwrap());
        let get = Grant { method: "GET".into(), ..grant(100, "ab") };
        let claim = grants.claim(&get, 50).unwrap();
        let begun = fs::File::open(claim.note()).unwrap();
        begun.set_modified(SystemTime::now() - 2 * REPEATABLE).unwrap();
        claim.spend();
        drop(claim);
        assert!(grants.claim(&get, 50).is_ok());
    }

    #[test]
    fn what_cannot_be_written_down_works_not_at_all_and_never_twice() {
        let dir = tempfile::tempdir().unwrap();
        let grants = Arc::new(Grants::open(dir.path().join("used")).unwrap());
        let claim = grants.claim(&grant(100, "ab"), 50).unwrap();
        fs::remove_dir_all(dir.path().join("used")).unwrap();
        claim.spend();
        drop(claim);
        assert_eq!(grants.claim(&grant(100, "ab"), 50).unwrap_err(), Refusal::InUse);
        assert_eq!(grants.claim(&grant(100, "cd"), 50).unwrap_err(), Refusal::Unrecorded);
    }
}
