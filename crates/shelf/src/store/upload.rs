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

use super::{Inner, MARK, Store, blocking};
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
        let mut upload = blocking(move || Upload::begin(inner, path)).await?;
        let mut source = Source { body, taken: 0, limit };
        loop {
            let (batch, ended) = source.gather().await?;
            upload = blocking(move || upload.add(&batch)).await?;
            if ended {
                return blocking(move || upload.finish()).await;
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

impl Upload {
    fn begin(store: Arc<Inner>, path: BlobPath) -> Result<Self, StoreError> {
        store.make_tmp().map_err(|err| store.storing(err))?;
        store.reserve.take(0, || store.free())?;
        let room = store.folder_room(&path);
        let temp = NamedTempFile::new_in(&store.tmp).map_err(|err| store.storing(err))?;
        Ok(Self { store, path, temp, digest: Sha256::new(), len: 0, room })
    }

    fn add(mut self, batch: &[u8]) -> Result<Self, StoreError> {
        self.len += batch.len() as u64;
        if self.len > self.room {
            // Not only at the end: until then it would fill the disk for nothing.
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

    fn finish(mut self) -> Result<String, StoreError> {
        let digest = self.digest.finalize_reset();
        self.write(&digest)?;
        self.write(MARK)?;
        let Self { store, path, mut temp, .. } = self;
        let storing = |err: io::Error| store.storing(err);
        // A conditional deletion compares this time. The time that the kernel sets is only exact to some milliseconds, so two
        // uploads could have the same.
        temp.as_file().set_modified(SystemTime::now()).map_err(storing)?;
        temp.as_file().sync_all().map_err(storing)?;
        store.move_into_place(temp.path(), &path)?;
        // The file has moved: there is nothing left to remove.
        temp.disable_cleanup(true);
        Ok(hex::encode(digest))
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
    /// How much may come to the others below the same two names.
    pub(super) fn folder_room(&self, path: &BlobPath) -> u64 {
        let Some(folder) = path.folder() else { return u64::MAX };
        let replaced = fs::metadata(self.blobs.join(path.file())).map_or(0, |blob| blob.len());
        let used = len_of(&self.blobs.join(folder.trim_matches('/')));
        self.folder_len_max.saturating_sub(used.saturating_sub(replaced))
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
