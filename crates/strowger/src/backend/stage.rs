//! How far a client's connection is with a request.

use std::sync::atomic::{AtomicU8, Ordering};

/// Neither is anything asked for that was not answered, nor is an answer on its way.
const QUIET: u8 = 0;
/// The request came whole, and its answer has not begun.
const ASKED: u8 = 1;
/// The answer has begun.
const ANSWERED: u8 = 2;

/// What there is to do for a client, one request after the other.
#[derive(Debug, Default)]
pub(crate) struct Stage(AtomicU8);

impl Stage {
    /// The request came whole.
    pub(crate) fn end_request(&self) {
        // It may have been answered before.
        let _ = self.0.compare_exchange(QUIET, ASKED, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The answer begins.
    pub(crate) fn begin_answer(&self) {
        self.0.store(ANSWERED, Ordering::Relaxed);
    }

    /// The answer has ended.
    pub(crate) fn end_answer(&self) {
        self.0.store(QUIET, Ordering::Relaxed);
    }

    /// Whether the answer is what there is to wait for.
    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) == ASKED
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_quiet(&self) -> bool {
        self.0.load(Ordering::Relaxed) == QUIET
    }
}
