//! Requests to a service whose last backend went a moment ago wait for the next one: an app that is being switched, or
//! restarted after a crash, is there again sooner than its clients would try again.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

/// So long after the last backend went, requests wait for another.
const HOLD_LIMIT_MS: u64 = 5_000;
/// Most requests of a service that wait at once; further ones are told at once that nobody is there.
const HELD_LIMIT: u32 = 1_000;

/// What waits for a backend of a service.
#[derive(Debug, Default)]
pub(super) struct Hold {
    /// When the last one went; 0 if there was none.
    emptied_ms: AtomicU64,
    filled: Notify,
    held: AtomicU32,
}

/// How much longer a request waits.
fn time_left(emptied_ms: u64, now_ms: u64) -> Option<Duration> {
    let left = HOLD_LIMIT_MS.checked_sub(now_ms.saturating_sub(emptied_ms))?;
    (emptied_ms > 0 && left > 0).then(|| Duration::from_millis(left))
}

struct Held<'a>(&'a AtomicU32);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Hold {
    /// There is no backend any more.
    pub(super) fn empty(&self, now_ms: u64) {
        self.emptied_ms.store(now_ms.max(1), Relaxed);
    }

    /// There is one again.
    pub(super) fn fill(&self) {
        self.filled.notify_waiters();
    }

    /// Waits until there is one, unless the time is over, or too many wait.
    pub(super) async fn wait(&self, now_ms: u64, is_filled: impl Fn() -> bool) {
        let Some(left) = time_left(self.emptied_ms.load(Relaxed), now_ms) else { return };
        let before = self.held.fetch_add(1, Relaxed);
        let _held = Held(&self.held);
        if before >= HELD_LIMIT {
            return;
        }
        let filled = async {
            loop {
                let filled = self.filled.notified();
                tokio::pin!(filled);
                filled.as_mut().enable();
                if is_filled() {
                    return;
                }
                filled.await;
            }
        };
        // What comes next sees whether there is one.
        let _ = timeout(left, filled).await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_wait_than_may_and_none_is_counted_for_ever() {
        let hold = Hold::default();
        let wait = || hold.wait(1_000, || false);
        let begun = tokio::time::Instant::now();
        wait().await;
        assert!(begun.elapsed().is_zero(), "it never had a backend");
        hold.empty(1_000);
        hold.held.store(HELD_LIMIT, Relaxed);
        wait().await;
        assert!(begun.elapsed().is_zero(), "too many wait");
        hold.held.store(HELD_LIMIT - 1, Relaxed);
        wait().await;
        assert_eq!(begun.elapsed(), Duration::from_millis(HOLD_LIMIT_MS));
        assert_eq!(hold.held.load(Relaxed), HELD_LIMIT - 1);
        let (begun, filled) = (tokio::time::Instant::now(), AtomicU32::new(0));
        let waits = hold.wait(1_000, || filled.load(Relaxed) > 0);
        tokio::join!(waits, async {
            filled.store(1, Relaxed);
            hold.fill();
        });
        assert!(begun.elapsed().is_zero());
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_the_limit_after_the_last_one_went(emptied: u64, now: u64) {
            let limit = Duration::from_millis(HOLD_LIMIT_MS);
            match time_left(emptied, now) {
                Some(left) => prop_assert!(emptied > 0 && left <= limit),
                None => prop_assert!(emptied == 0 || now.saturating_sub(emptied) >= HOLD_LIMIT_MS),
            }
        }
    }
}
