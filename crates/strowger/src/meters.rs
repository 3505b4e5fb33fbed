//! What is counted while requests are served. Nobody waits for anybody: each thread adds to a copy of its own, and who asks
//! adds up the copies.

use std::{
    array,
    sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use crate::domain::code::Code;

/// Copies of what every request counts. Threads share one where there are more of them.
const SHARDS: usize = 4;
/// Upper bounds, in milliseconds, of the times to the head of an answer that are told apart. Few: there is a row of them for
/// each service.
pub(crate) const BOUNDS_MS: [u64; 11] = [2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 30_000];
/// What statuses begin with.
const CLASSES: usize = 5;

/// The copy of the thread that asks.
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Relaxed) % SHARDS;
    }
    MINE.with(|mine| *mine)
}

/// Requests of one service, or of none.
#[derive(Debug, Default)]
pub(crate) struct Tally([Shard; SHARDS]);

/// On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    begun: AtomicU64,
    ended: [AtomicU64; CLASSES],
    answered: [AtomicU64; BOUNDS_MS.len() + 1],
    answered_us: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    resent: AtomicU64,
    unconnected: AtomicU64,
    failed: [AtomicU64; Code::ALL.len()],
}

/// A request that has ended, as far as it is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) status: u16,
    /// The time to the head of the answer, if there was one.
    pub(crate) answered: Option<Duration>,
    /// Bytes of bodies, from the client and to it.
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// How often it was sent again.
    pub(crate) resent: u32,
    pub(crate) code: Option<Code>,
}

/// What there was in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    /// By what the status begins with, from 1 on.
    pub(crate) ended: [u64; CLASSES],
    pub(crate) under_way: u64,
    /// By [`BOUNDS_MS`]; the last is of those that took longer.
    pub(crate) answered: [u64; BOUNDS_MS.len() + 1],
    pub(crate) answered_us: u64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) resent: u64,
    /// Connections to backends that could not be made.
    pub(crate) unconnected: u64,
    /// By [`Code::ALL`].
    pub(crate) failed: [u64; Code::ALL.len()],
}

impl Tally {
    /// A request that [`Tally::end`] will be told of.
    pub(crate) fn begin(&self) {
        self.mine().begun.fetch_add(1, Relaxed);
    }

    /// It has ended.
    pub(crate) fn end(&self, ended: &Ended) {
        let add = |to: &AtomicU64, more: u64| {
            if more != 0 {
                to.fetch_add(more, Relaxed);
            }
        };
        let mine = self.mine();
        add(&mine.ended[usize::from(ended.status / 100).clamp(1, CLASSES) - 1], 1);
        if let Some(took) = ended.answered {
            add(&mine.answered[bucket(took)], 1);
            add(&mine.answered_us, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
        add(&mine.received, ended.received);
        add(&mine.sent, ended.sent);
        add(&mine.resent, ended.resent.into());
        if let Some(code) = ended.code {
            add(&mine.failed[code as usize], 1);
        }
    }

    /// Bytes that were no request's.
    pub(crate) fn carry(&self, received: u64, sent: u64) {
        self.mine().received.fetch_add(received, Relaxed);
        self.mine().sent.fetch_add(sent, Relaxed);
    }

    /// A connection to a backend that could not be made.
    pub(crate) fn unconnected(&self) {
        self.mine().unconnected.fetch_add(1, Relaxed);
    }

    /// All there was up to now.
    pub(crate) fn sum(&self) -> Sum {
        let of = |count: &dyn Fn(&Shard) -> &AtomicU64| {
            self.0.iter().map(|shard| count(shard).load(Relaxed)).sum::<u64>()
        };
        let begun = of(&|shard| &shard.begun);
        let ended = array::from_fn(|class| of(&|shard| &shard.ended[class]));
        Sum {
            // Some may have begun and ended in between.
            under_way: begun.saturating_sub(ended.iter().sum()),
            ended,
            answered: array::from_fn(|bucket| of(&|shard| &shard.answered[bucket])),
            answered_us: of(&|shard| &shard.answered_us),
            received: of(&|shard| &shard.received),
            sent: of(&|shard| &shard.sent),
            resent: of(&|shard| &shard.resent),
            unconnected: of(&|shard| &shard.unconnected),
            failed: array::from_fn(|code| of(&|shard| &shard.failed[code])),
        }
    }

    fn mine(&self) -> &Shard {
        &self.0[shard()]
    }
}

impl Sum {
    /// Whether there was anything.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn bucket(took: Duration) -> usize {
    BOUNDS_MS.partition_point(|bound| Duration::from_millis(*bound) < took)
}

/// What is counted of the router as a whole.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    /// Requests that no route was found for.
    pub(crate) unrouted: Tally,
    /// Clients' connections.
    pub(crate) http: Door,
    /// The same.
    pub(crate) https: Door,
    /// The same, of TCP routes.
    pub(crate) tcp: Door,
    /// Connections that ended because what came was not HTTP.
    pub(crate) malformed: AtomicU64,
    /// Connections that ended before TLS was agreed upon.
    pub(crate) unsecured: AtomicU64,
    busy: [Busy; SHARDS],
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Busy(AtomicI64);

impl Meters {
    /// One more of clients' connections has something under way, or one less.
    pub(crate) fn busy(&self, more: i64) {
        self.busy[shard()].0.fetch_add(more, Relaxed);
    }

    /// Clients' connections with something under way.
    pub(crate) fn busy_now(&self) -> u64 {
        let busy = self.busy.iter().map(|busy| busy.0.load(Relaxed)).sum::<i64>();
        busy.max(0).unsigned_abs()
    }
}

/// Connections of one kind.
#[derive(Debug, Default)]
pub(crate) struct Door {
    accepted: AtomicU64,
    left: AtomicU64,
}

/// A connection that is open until this is dropped.
#[derive(Debug)]
pub(crate) struct Open<'a>(&'a Door);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Door {
    /// One more is open, while the answer is there.
    pub(crate) fn open(&self) -> Open<'_> {
        self.enter();
        Open(self)
    }

    /// One more is open, until [`Door::leave`].
    pub(crate) fn enter(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    /// It is closed.
    pub(crate) fn leave(&self) {
        self.left.fetch_add(1, Relaxed);
    }

    /// How many there were, and how many are open.
    pub(crate) fn count(&self) -> (u64, u64) {
        let left = self.left.load(Relaxed);
        let accepted = self.accepted.load(Relaxed);
        (accepted, accepted.saturating_sub(left))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_counted_by_many_is_there_in_sum(
            ended in prop::collection::vec((0u16..1000, prop::option::of(0u64..60_000), 0u64..9), 0..30),
            under_way in 0usize..5,
        ) {
            let tally = Tally::default();
            std::thread::scope(|scope| {
                for &(status, answered_ms, bytes) in &ended {
                    let answered = answered_ms.map(Duration::from_millis);
                    let ended = Ended { status, answered, received: bytes, sent: 2 * bytes, resent: 1, code: Some(Code::H99) };
                    let tally = &tally;
                    scope.spawn(move || { tally.begin(); tally.end(&ended) });
                }
                for _ in 0..under_way {
                    scope.spawn(|| tally.begin());
                }
            });
            let sum = tally.sum();
            prop_assert_eq!(sum.under_way, under_way as u64);
            prop_assert_eq!(sum.ended.iter().sum::<u64>(), ended.len() as u64);
            prop_assert_eq!(sum.answered.iter().sum::<u64>(), ended.iter().filter(|one| one.1.is_some()).count() as u64);
            prop_assert_eq!(sum.answered_us, ended.iter().filter_map(|one| one.1).sum::<u64>() * 1000);
            prop_assert_eq!(2 * sum.received, sum.sent);
            prop_assert_eq!((sum.resent, sum.failed[Code::H99 as usize]), (ended.len() as u64, ended.len() as u64));
        }
    }

    #[test]
    fn a_time_is_counted_at_the_first_bound_that_is_not_below_it() {
        let of = |ms| bucket(Duration::from_millis(ms));
        assert_eq!((of(0), of(2), of(3), of(30_000), of(30_001)), (0, 0, 1, 10, 11));
    }

    #[test]
    fn codes_are_counted_at_their_own_place() {
        for (place, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, place);
        }
    }
}
