//! Taking a blob in.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Duration, timeout},
};

use super::{Inner, MARK, Store};
use crate::{domain::BlobPath, error::StoreError};

/// Longest silence of a client that uploads.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Pieces between the network and the disk; a piece is what one read of the connection gave.
const QUEUE: usize = 16;
/// The free space is looked at again after so many bytes.
const ROOM_CHECK: u64 = 64 << 20;

/// What the writer is told.
enum Piece {
    Data(Bytes),
    /// The body is complete. A queue that ends without it means that the client went away.
    End,
}

impl Store {
    /// Stores a body of at most `limit` bytes; answers its digest once it is durable and visible.
    pub(crate) async fn put<E>(
        &self,
        path: BlobPath,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
        limit: u64,
    ) -> Result<String, StoreError> {
        let (pieces, queue) = mpsc::channel(QUEUE);
        let inner = self.0.clone();
        let writer = spawn_blocking(move || inner.write(&path, queue));
        let fed = feed(&mut body, &pieces, limit).await;
        drop(pieces);
        let written = writer.await.map_err(|err| StoreError::io("storing a blob")(err.into()))?;
        // If feeding failed, the writer saw only that it ended early.
        fed.and(written)
    }
}

async fn feed<E>(
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    pieces: &mpsc::Sender<Piece>,
    limit: u64,
) -> Result<(), StoreError> {
    let mut taken = 0_u64;
    loop {
        let piece = match timeout(STALL_TIMEOUT, body.next()).await {
            Ok(Some(Ok(data))) => {
                taken += data.len() as u64;
                if taken > limit {
                    return Err(StoreError::TooLarge { limit });
                }
                Piece::Data(data)
            }
            Ok(None) => Piece::End,
            Ok(Some(Err(_))) | Err(_) => return Err(StoreError::BrokenOff),
        };
        let ended = matches!(piece, Piece::End);
        // A writer that takes no more has failed, and says why itself.
        if pieces.send(piece).await.is_err() || ended {
            return Ok(());
        }
    }
}

/// What may still come to a folder.
struct Room {
    folder: String,
    most: u64,
    left: u64,
}

impl Room {
    fn take(&mut self, bytes: u64) -> Result<(), StoreError> {
        let full = || StoreError::FolderFull { folder: self.folder.clone(), most: self.most };
        self.left = self.left.checked_sub(bytes).ok_or_else(full)?;
        Ok(())
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
    fn write(
        &self,
        path: &BlobPath,
        mut queue: mpsc::Receiver<Piece>,
    ) -> Result<String, StoreError> {
        self.make_tmp().map_err(|err| self.storing(err))?;
        self.check_room()?;
        let mut room = self.folder_room(path);
        let storing = |err: io::Error| self.storing(err);
        let mut temp = NamedTempFile::new_in(&self.tmp).map_err(storing)?;
        let (mut digest, mut unchecked) = (Sha256::new(), 0);
        loop {
            match queue.blocking_recv() {
                None => return Err(StoreError::BrokenOff),
                Some(Piece::End) => break,
                Some(Piece::Data(data)) => {
                    room.take(data.len() as u64)?;
                    digest.update(&data);
                    temp.write_all(&data).map_err(storing)?;
                    unchecked += data.len() as u64;
                }
            }
            if unchecked > ROOM_CHECK {
                self.check_room()?;
                unchecked = 0;
            }
        }
        let digest = digest.finalize();
        temp.write_all(&digest).map_err(storing)?;
        temp.write_all(MARK).map_err(storing)?;
        // The kernel's own times are some milliseconds coarse; whoever deletes what was listed knows the blob by its time.
        temp.as_file().set_modified(SystemTime::now()).map_err(storing)?;
        temp.as_file().sync_all().map_err(storing)?;
        self.move_into_place(temp.path(), path)?;
        // The file has moved: there is nothing left to remove.
        temp.disable_cleanup(true);
        Ok(hex::encode(digest))
    }

    /// How much may come to the others below the same two names.
    fn folder_room(&self, path: &BlobPath) -> Room {
        let most = self.folder_len_max;
        let Some(folder) = path.folder() else {
            return Room { folder: String::new(), most, left: u64::MAX };
        };
        let replaced = fs::metadata(self.blobs.join(path.file())).map_or(0, |blob| blob.len());
        let used = len_of(&self.blobs.join(folder.trim_matches('/')));
        Room { folder, most, left: most.saturating_sub(used.saturating_sub(replaced)) }
    }

    fn check_room(&self) -> Result<(), StoreError> {
        let free = self.free()?;
        let reserve = self.reserve;
        if free < reserve { Err(StoreError::NoRoom { free, reserve }) } else { Ok(()) }
    }

    fn free(&self) -> Result<u64, StoreError> {
        let disk = rustix::fs::statvfs(&self.tmp)
            .map_err(|err| StoreError::io("asking how full the disk is")(err.into()))?;
        Ok(disk.f_bavail * disk.f_frsize)
    }

    fn storing(&self, err: io::Error) -> StoreError {
        match err.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::NoRoom { free: 0, reserve: self.reserve }
            }
            _ => StoreError::io("storing a blob")(err),
        }
    }
}
