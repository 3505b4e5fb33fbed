//! How much more may be stored: on the disk, and in a folder.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{domain::BlobPath, error::StoreError};

/// Most folders whose bytes are known.
const FOLDERS_MAX: usize = 10_000;

/// Bytes of the disk that stay free.
#[derive(Debug)]
pub(super) struct Reserve {
    pub(super) len: u64,
    /// Bytes that are being written, of all uploads together.
    writing: AtomicU64,
}

/// Room for something while it is being written.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    reserve: &'a Reserve,
    len: u64,
}

impl Reserve {
    pub(super) fn new(len: u64) -> Self {
        Self { len, writing: AtomicU64::new(0) }
    }

    /// Takes room for `len` bytes, if what is `free` after all that is being written is no less than the reserve.
    pub(super) fn take(
        &self,
        len: u64,
        free: impl FnOnce() -> Result<u64, StoreError>,
    ) -> Result<Taken<'_>, StoreError> {
        let writing = self.writing.fetch_add(len, Ordering::SeqCst) + len;
        let taken = Taken { reserve: self, len };
        // After it was counted: of two at once at least one sees the other.
        let free = free()?;
        if free.saturating_sub(writing) < self.len {
            return Err(StoreError::NoRoom { free, reserve: self.len });
        }
        Ok(taken)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.reserve.writing.fetch_sub(self.len, Ordering::SeqCst);
    }
}

/// Bytes of all files of folders, as far as they are known. What is known may be too much, until it is forgotten, and is never
/// too little.
#[derive(Debug, Default)]
pub(super) struct FolderLens(Mutex<HashMap<String, u64>>);

impl FolderLens {
    /// Those of the folder of a path, if it has one; `count` finds them out.
    pub(super) fn get(&self, path: &BlobPath, count: impl FnOnce(&str) -> u64) -> u64 {
        let Some(folder) = path.folder() else { return 0 };
        if let Some(len) = self.lock().get(&folder) {
            return *len;
        }
        let len = count(&folder);
        self.set(path, len);
        len
    }

    pub(super) fn set(&self, path: &BlobPath, len: u64) {
        let Some(folder) = path.folder() else { return };
        let mut lens = self.lock();
        if lens.len() >= FOLDERS_MAX {
            lens.clear();
        }
        lens.insert(folder, len);
    }

    pub(super) fn forget(&self, path: &BlobPath) {
        if let Some(folder) = path.folder() {
            self.lock().remove(&folder);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_at_once_leaves_the_reserve_together() {
        let reserve = Reserve::new(200);
        let take = |len| reserve.take(len, || Ok(260));
        let first = take(40).unwrap();
        assert!(matches!(take(40), Err(StoreError::NoRoom { free: 260, reserve: 200 })));
        drop((first, take(20).unwrap()));
        drop(take(60).unwrap());
        assert!(take(61).is_err());
        reserve.take(60, || Ok(259)).unwrap_err();
        // A disk that does not say how much of it is free is used without a reserve.
        Reserve::new(0).take(1, || Ok(0)).unwrap();
    }
}
