//! Reading the blobs again now and then: a disk may give other bytes than it took, and nobody may ask for them for months.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rand::seq::SliceRandom;
use sha2::{Digest, Sha256};
use tokio::{
    io::AsyncReadExt,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{Inner, OpenBlob, Store, blocking, is_absent};
use crate::{domain::BlobPath, error::StoreError};

/// The first round begins when whatever starts with shelf has started.
const FIRST_DELAY: Duration = Duration::from_secs(600);
/// How often all are read.
const ROUND_INTERVAL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes read at once.
const PIECE_LEN: usize = 1 << 20;
/// Pause after each piece, so that scrubbing leaves most of the disk's time to requests.
const PIECE_DELAY: Duration = Duration::from_millis(50);

impl Store {
    /// Reads all blobs again, in rounds, and says which the disk does not have as they were stored.
    pub(crate) async fn keep_scrubbed(self, stop: CancellationToken) {
        let mut rounds = interval_at(Instant::now() + FIRST_DELAY, ROUND_INTERVAL);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(rounds.tick()).await.is_some() {
            match stop.run_until_cancelled(self.scrub(PIECE_DELAY)).await {
                None => return,
                Some(Ok(damaged)) if damaged.is_empty() => {}
                Some(Ok(damaged)) => {
                    error!("{} blobs are not on the disk as they were stored", damaged.len());
                }
                Some(Err(err)) => {
                    warn!(error = &err as &dyn std::error::Error, "blobs could not be read again");
                }
            }
        }
    }

    /// Reads all blobs and answers which are damaged.
    async fn scrub(&self, pause: Duration) -> Result<Vec<String>, StoreError> {
        let inner = self.0.clone();
        let mut paths = blocking(move || {
            let mut found = Vec::new();
            inner.paths(Path::new(""), &mut found).map_err(StoreError::io("listing"))?;
            Ok(found)
        })
        .await?;
        // A shelf that is started anew before a round ends reads others than the last time.
        paths.shuffle(&mut rand::rng());
        let mut damaged = Vec::new();
        for path in paths {
            let name = path.to_string();
            let is_whole = match self.get(path).await {
                Ok(blob) => is_whole(blob, pause).await,
                // Removed meanwhile.
                Err(StoreError::NotFound(_)) => true,
                Err(err) => {
                    error!(
                        error = &err as &dyn std::error::Error,
                        "blob {name} cannot be read again"
                    );
                    false
                }
            };
            if !is_whole {
                error!("blob {name} is damaged: the disk does not give the bytes that were stored");
                damaged.push(name);
            }
        }
        Ok(damaged)
    }
}

impl Inner {
    fn paths(&self, dir: &Path, found: &mut Vec<BlobPath>) -> io::Result<()> {
        let entries = match fs::read_dir(self.blobs.join(dir)) {
            Ok(entries) => entries,
            Err(err) if is_absent(&err) => return Ok(()),
            // All others are read all the same.
            Err(err) if !dir.as_os_str().is_empty() => {
                error!(error = %err, "the blobs of {} cannot be listed", dir.display());
                return Ok(());
            }
            Err(err) => return Err(err),
        };
        for entry in entries {
            let entry = entry?;
            let relative: PathBuf = dir.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.paths(&relative, found)?;
            } else {
                found.extend(relative.to_str().and_then(BlobPath::of_file));
            }
        }
        Ok(())
    }
}

/// Whether the content is what was stored. What cannot be read is not.
async fn is_whole(blob: OpenBlob, pause: Duration) -> bool {
    let mut file = tokio::fs::File::from_std(blob.file).take(blob.size);
    let (mut digest, mut piece) = (Sha256::new(), vec![0; PIECE_LEN]);
    loop {
        match file.read(&mut piece).await {
            Ok(0) => return hex::encode(digest.finalize()) == blob.sha256,
            Ok(len) => digest.update(&piece[..len]),
            Err(_) => return false,
        }
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_flipped_bit_is_found_though_nobody_asks_for_the_blob() {
        let dir = tempfile::tempdir().unwrap();
        let lock = fs::File::create(dir.path().join("lock")).unwrap();
        let store = Store::open(dir.path(), 0, u64::MAX, lock).unwrap();
        for path in ["/a/whole", "/a/flipped", "/torn", "/unreadable"] {
            let body = stream::iter([Ok::<_, io::Error>(Bytes::from("hello"))]);
            store.put(BlobPath::parse(path).unwrap(), body, 100).await.unwrap();
        }
        assert_eq!(store.scrub(Duration::ZERO).await.unwrap(), [""; 0]);
        let file = |path: &str| dir.path().join("blobs").join(format!("{path}%"));
        let mut bytes = fs::read(file("a/flipped")).unwrap();
        bytes[0] ^= 1;
        fs::write(file("a/flipped"), bytes).unwrap();
        fs::write(file("torn"), "no trailer").unwrap();
        fs::remove_file(file("unreadable")).unwrap();
        std::os::unix::fs::symlink("unreadable%", file("unreadable")).unwrap();
        let mut damaged = store.scrub(Duration::ZERO).await.unwrap();
        damaged.sort();
        assert_eq!(damaged, ["/a/flipped", "/torn", "/unreadable"]);
    }
}
