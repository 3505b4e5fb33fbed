//! How much more may be stored on the disk.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::StoreError;

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
