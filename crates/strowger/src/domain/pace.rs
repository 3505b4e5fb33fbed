//! How fast a request's body has to come.

use std::time::{Duration, Instant};

/// Time in which so much of a body has to come whose length is known: a file that is sent, and no stream of events.
pub(crate) const PACE_WINDOW: Duration = Duration::from_secs(60);
/// The least, in bytes: 100 a second, which every line reaches.
const PACE_LEN: u64 = 6_000;

/// How fast it comes.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    len: u64,
}

impl Pace {
    /// Begins now.
    pub(crate) fn begin(now: Instant) -> Self {
        Self { since: now, len: 0 }
    }

    /// So many bytes came.
    pub(crate) fn add(&mut self, len: usize) {
        self.len = self.len.saturating_add(len as u64);
    }

    /// When to look again, there being nothing more at the moment; none if it comes too slowly.
    pub(crate) fn next_look(&mut self, now: Instant) -> Option<Instant> {
        if now.saturating_duration_since(self.since) >= PACE_WINDOW {
            if self.len < PACE_LEN {
                return None;
            }
            *self = Self::begin(now);
        }
        Some(self.since + PACE_WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether a body goes through of which a piece comes so often.
    fn passes(len: usize, every: Duration, count: u32) -> bool {
        let begun = Instant::now();
        let mut pace = Pace::begin(begun);
        (1..=count).all(|n| {
            let there = pace.next_look(begun + every * n);
            pace.add(len);
            there.is_some()
        })
    }

    #[test]
    fn a_byte_now_and_then_is_too_slow_and_a_slow_line_is_not() {
        assert!(!passes(1, Duration::from_secs(5), 20));
        assert!(!passes(1000, Duration::from_secs(59), 4));
        assert!(passes(1500, Duration::from_secs(10), 1000));
    }

    proptest! {
        #[test]
        fn whoever_sends_twice_the_least_is_not_cut_off(gap_ms in 1u64..30_000, count in 1u32..200) {
            let len = (gap_ms * 200).div_ceil(1000) as usize;
            prop_assert!(passes(len, Duration::from_millis(gap_ms), count));
        }

        #[test]
        fn whoever_sends_nothing_is_cut_off_in_time(late_ms in 0u64..100_000) {
            let begun = Instant::now();
            let mut pace = Pace::begin(begun);
            prop_assert!(pace.next_look(begun + PACE_WINDOW + Duration::from_millis(late_ms)).is_none());
        }
    }
}
