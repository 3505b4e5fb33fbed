//! Taking a blob in.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::time::{Duration, timeout};

use super::{Filling, Inner, MARK, Store, blocking};
use crate::{domain::BlobPath, error::StoreError};

/// Longest silence of a client that uploads.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that are gathered before they are written.
const BATCH_LEN: usize = 256 << 10;

impl Store {
    /// Stores a body of at most `limit` bytes; answers its digest once it is durable and visible. A thread that may block is
    /// held only while something is written: however many upload slowly, others are read.
    pub(crate) async fn put<E>(
        &self,
        path: BlobPath,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
        limit: u64,
    ) -> Result<String, StoreError> {
        let inner = self.0.clone();
        let filling = inner.fill(&path).await;
        let mut upload = blocking(move || Upload::begin(inner, path, filling)).await?;
        let mut source = Source { body, taken: 0, limit };
        loop {
            let (batch, ended) = source.gather().await?;
            upload = blocking(move || upload.add(&batch)).await?;
            if ended {
                let whole = blocking(move || upload.finish()).await?;
                let filling = whole.store.fill(&whole.path).await;
                return blocking(move || whole.place(filling)).await;
            }
        }
    }
}

/// A body on its way in.
struct Source<B> {
    body: B,
    taken: u64,
    limit: u64,
}

impl<E, B: Stream<Item = Result<Bytes, E>> + Unpin> Source<B> {
    /// As much as is worth a write, and whether it is the last.
    async fn gather(&mut self) -> Result<(Vec<u8>, bool), StoreError> {
        let mut batch = Vec::new();
        while batch.len() < BATCH_LEN {
            let data = match timeout(STALL_TIMEOUT, self.body.next()).await {
                Ok(Some(Ok(data))) => data,
                Ok(None) => return Ok((batch, true)),
                Ok(Some(Err(_))) | Err(_) => return Err(StoreError::BrokenOff),
            };
            self.taken += data.len() as u64;
            if self.taken > self.limit {
                return Err(StoreError::TooLarge { limit: self.limit });
            }
            batch.extend_from_slice(&data);
        }
        Ok((batch, false))
    }
}

/// A file that becomes a blob. It is removed with this.
struct Upload {
    store: Arc<Inner>,
    path: BlobPath,
    temp: NamedTempFile,
    digest: Sha256,
    /// Bytes of it.
    len: u64,
    /// Most bytes of it that its folder had room for when it began.
    room: u64,
}

/// A durable file that is to become a blob. It is removed with this.
struct Whole {
    store: Arc<Inner>,
    path: BlobPath,
    temp: NamedTempFile,
    sha256: String,
}

impl Upload {
    /// Begins one. Nothing else may come to its folder meanwhile, so that one counts what is there for all that wait.
    fn begin(store: Arc<Inner>, path: BlobPath, _filling: Filling) -> Result<Self, StoreError> {
        store.make_tmp().map_err(|err| store.storing(err))?;
        store.reserve.take(0, || store.free())?;
        let room = store.folder_len_max.saturating_sub(store.others_len(&path));
        let temp = NamedTempFile::new_in(&store.tmp).map_err(|err| store.storing(err))?;
        Ok(Self { store, path, temp, digest: Sha256::new(), len: 0, room })
    }

    fn add(mut self, batch: &[u8]) -> Result<Self, StoreError> {
        self.len += batch.len() as u64;
        if self.len > self.room {
            // Not only at the end: until then it would fill the disk for nothing.
            // What was known of it may have been too much, and some of it may be gone.
            self.room =
                self.store.folder_len_max.saturating_sub(self.store.count_others(&self.path));
        }
        if self.len > self.room {
            return Err(self.store.folder_full(&self.path));
        }
        self.digest.update(batch);
        self.write(batch)?;
        Ok(self)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Self { store, temp, .. } = self;
        let _taken = store.reserve.take(bytes.len() as u64, || store.free())?;
        temp.write_all(bytes).map_err(|err| store.storing(err))
    }

    fn finish(mut self) -> Result<Whole, StoreError> {
        let digest = self.digest.finalize_reset();
        self.write(&digest)?;
        self.write(MARK)?;
        let Self { store, path, temp, .. } = self;
        let storing = |err: io::Error| store.storing(err);
        // A conditional deletion compares this time. The time that the kernel sets is only exact to some milliseconds, so two
        // uploads could have the same.
        temp.as_file().set_modified(SystemTime::now()).map_err(storing)?;
        temp.as_file().sync_all().map_err(storing)?;
        Ok(Whole { store, path, temp, sha256: hex::encode(digest) })
    }
}

impl Whole {
    fn place(self, filling: Filling) -> Result<String, StoreError> {
        let Self { store, path, mut temp, sha256 } = self;
        store.move_into_place(temp.path(), &path, filling)?;
        // The file has moved: there is nothing left to remove.
        temp.disable_cleanup(true);
        Ok(sha256)
    }
}

/// Bytes of all files below a directory; what vanishes meanwhile has none.
fn len_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let lens = entries.map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => len_of(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    lens.fold(0, u64::saturating_add)
}

impl Inner {
    /// Bytes of the others below the same two names.
    pub(super) fn others_len(&self, path: &BlobPath) -> u64 {
        let used = self.folder_lens.get(path, |folder| self.count(folder));
        used.saturating_sub(self.replaced_len(path))
    }

    /// The same, counted now.
    pub(super) fn count_others(&self, path: &BlobPath) -> u64 {
        let used = path.folder().map_or(0, |folder| self.count(&folder));
        used.saturating_sub(self.replaced_len(path))
    }

    fn count(&self, folder: &str) -> u64 {
        len_of(&self.blobs.join(folder.trim_matches('/')))
    }

    fn replaced_len(&self, path: &BlobPath) -> u64 {
        fs::metadata(self.blobs.join(path.file())).map_or(0, |blob| blob.len())
    }

    pub(super) fn folder_full(&self, path: &BlobPath) -> StoreError {
        let folder = path.folder().unwrap_or_default();
        StoreError::FolderFull { folder, most: self.folder_len_max }
    }

    fn free(&self) -> Result<u64, StoreError> {
        let disk = rustix::fs::statvfs(&self.tmp)
            .map_err(|err| StoreError::io("asking how full the disk is")(err.into()))?;
        Ok(disk.f_bavail * disk.f_frsize)
    }

    fn storing(&self, err: io::Error) -> StoreError {
        match err.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::NoRoom { free: 0, reserve: self.reserve.len }
            }
            _ => StoreError::io("storing a blob")(err),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{future::join_all, stream};
    use tokio::{sync::mpsc, task::yield_now};

    use super::*;

    fn store(dir: &Path) -> Store {
        Store::open(dir, 0, u64::MAX, fs::File::create(dir.join("lock")).unwrap()).unwrap()
    }

    fn path(path: &str) -> BlobPath {
        BlobPath::parse(path).unwrap()
    }

    async fn put(store: &Store, to: &str, len: usize) {
        let body = stream::iter([Ok::<_, io::Error>(Bytes::from(vec![0; len]))]);
        store.put(path(to), body, u64::MAX).await.unwrap();
    }

    #[test]
    fn uploads_that_wait_for_their_folder_keep_no_one_from_reading() {
        const UPLOADS: usize = 6;
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = store(dir.path());
            put(&store, "/other/b/c", 5).await;
            let files = || fs::read_dir(dir.path().join("tmp")).unwrap().flatten();
            let (senders, bodies): (Vec<_>, Vec<_>) = (0..UPLOADS)
                .map(|_| {
                    let (sender, queue) = mpsc::channel::<io::Result<Bytes>>(1);
                    let body =
                        stream::unfold(queue, async |mut queue| Some((queue.recv().await?, queue)));
                    (sender, Box::pin(body))
                })
                .unzip();
            let puts = bodies.into_iter().enumerate();
            let puts = puts.map(|(n, body)| store.put(path(&format!("/a/b/{n}")), body, 100));
            let reading = async {
                while files().count() < UPLOADS {
                    yield_now().await;
                }
                let filling = store.0.fill(&path("/a/b/c")).await;
                drop(senders);
                // All have been written to their end, and wait.
                while files().any(|file| file.metadata().unwrap().len() == 0) {
                    yield_now().await;
                }
                assert_eq!(store.get(path("/other/b/c")).await.unwrap().size, 5);
                drop(filling);
            };
            let reading = timeout(Duration::from_secs(10), reading);
            let (puts, reading) = tokio::join!(join_all(puts), reading);
            reading.expect("reading waits for uploads");
            assert!(puts.into_iter().all(|put| put.is_ok()));
        });
    }

    #[tokio::test]
    async fn what_is_known_of_a_folder_is_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let check = || {
            let counted = len_of(&dir.path().join("blobs/a/b"));
            assert_eq!(store.0.folder_lens.get(&path("/a/b/c"), |_| counted), counted);
            counted
        };
        for (to, len) in
            [("/a/b/1", 10), ("/a/b/2", 20), ("/a/b/1", 5), ("/a/b/c/3", 7), ("/a/c/4", 9)]
        {
            put(&store, to, len).await;
            check();
        }
        for (from, to) in [("/a/b/2", "/a/b/1"), ("/a/c/4", "/a/b/4"), ("/a/b/4", "/a/b/4")] {
            store.copy(path(from), path(to)).await.unwrap();
            check();
        }
        for gone in ["/a/b/2", "/a/b/2", "/a/b/c/3"] {
            store.delete(path(gone), None).await.unwrap();
            check();
        }
        put(&store, "/a/b/5", 1).await;
        assert!(check() > 0);
        // What is known to be too much keeps nothing out.
        store.0.folder_lens.set(&path("/a/b/6"), u64::MAX);
        put(&store, "/a/b/6", 1).await;
        check();
    }
}
