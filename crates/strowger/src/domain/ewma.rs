//! How long a backend takes to begin an answer: an average that rises at once and falls slowly.
//!
//! The idea is Finagle's "peak EWMA" (<https://twitter.github.io/finagle/guide/Clients.html#p2c-peak-ewma>; Steve Jenson,
//! "Beyond Round Robin: Load Balancing for Latency", Buoyant 2016): one bad answer is believed at once, good ones only in
//! time, and what is not confirmed fades. Four things are different here, since apps have pages that take long and are
//! fine: all that is quick counts as equally quick, one answer raises the average to four times itself at most, no backend counts as more than eight times as busy as
//! it is, and what fades is the difference between two, so that a slow one is tried again and is never preferred.

/// What was known is worth 1/e after so long.
const FADE_MS: f32 = 10_000.0;
/// One answer raises the average so many times at most: a long poll or a report says little of all the others.
const RISE_LIMIT: u32 = 4;
/// A slow backend counts as so many times as busy at most. One with a single thread is better not given eight times the
/// requests of another, however fast it was.
const HANDICAP_LIMIT: f32 = 8.0;
/// A smaller difference is chance.
const NOISE: f32 = 1.5;
/// Who takes less, in microseconds, counts as if it took this: between two that answer at once chance would decide for
/// seconds who gets all requests of a client that sends one after the other.
const QUICK_MICROS: f32 = 5_000.0;

/// What is known of how long a backend takes, and since when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Latency {
    /// The average, in microseconds; 0 if nothing is known.
    micros: u32,
    /// When it was that, in milliseconds; it goes round after 49 days.
    at: u32,
}

impl Latency {
    /// With one answer more, which began after so long.
    pub(crate) fn observe(self, micros: u32, now_ms: u64) -> Self {
        let micros = micros.max(1);
        let average = match self.micros {
            0 => micros,
            before if micros >= before => micros.min(before.saturating_mul(RISE_LIMIT)),
            before => {
                let above = (before - micros) as f32 * self.worth(now_ms);
                micros.saturating_add(above as u32)
            }
        };
        Self { micros: average, at: now_ms as u32 }
    }

    /// How many times as busy it counts, compared with another: 1 unless it is slower than that.
    pub(crate) fn handicap(self, other: Self, now_ms: u64) -> f32 {
        if other.micros == 0 || self.micros <= other.micros {
            return 1.0;
        }
        let of_self = (self.micros as f32 * self.worth(now_ms)).max(QUICK_MICROS);
        let ratio = of_self / (other.micros as f32).max(QUICK_MICROS);
        if ratio < NOISE { 1.0 } else { ratio.min(HANDICAP_LIMIT) }
    }

    /// What is left of it.
    fn worth(self, now_ms: u64) -> f32 {
        let age = (now_ms as u32).wrapping_sub(self.at);
        // Another thread may have read the clock a moment later.
        if age > u32::MAX / 2 { 1.0 } else { (-(age as f32) / FADE_MS).exp() }
    }

    /// In one word, to be shared between threads.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.micros) << 32 | u64::from(self.at)
    }

    /// The opposite.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self { micros: (bits >> 32) as u32, at: bits as u32 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(micros: u32) -> Latency {
        Latency::default().observe(micros, 0)
    }

    #[test]
    fn it_rises_with_one_answer_and_falls_in_time() {
        let slow = of(5_000).observe(20_000, 0);
        assert_eq!(slow.micros, 20_000);
        assert_eq!(slow.observe(5_000, 0).micros, 20_000);
        assert!((10_000..11_000).contains(&slow.observe(5_000, 10_000).micros));
        assert!((5_000..5_010).contains(&slow.observe(5_000, 100_000).micros));
    }

    #[test]
    fn a_slow_one_is_like_the_others_again_when_it_was_not_asked_for_long() {
        let (slow, fast) = (of(50_000), of(5_000));
        assert_eq!(slow.handicap(fast, 0), HANDICAP_LIMIT);
        assert!((2.0..5.0).contains(&slow.handicap(fast, 10_000)));
        assert_eq!(slow.handicap(fast, 30_000), 1.0);
        assert_eq!(slow.handicap(Latency::default(), 0), 1.0, "of the other nothing is known");
        assert_eq!(fast.handicap(slow, 0), 1.0);
        assert_eq!(of(4_900).handicap(of(10), 0), 1.0, "both are quick");
        assert_eq!(of(50_000).handicap(of(10), 0), HANDICAP_LIMIT);
    }

    #[test]
    fn one_answer_that_was_meant_to_take_long_makes_no_backend_slow() {
        let polled = of(5_000).observe(25_000_000, 0);
        assert_eq!(polled.micros, 20_000);
    }

    proptest! {
        #[test]
        fn the_average_is_between_what_it_was_and_what_was_seen(
            seen in prop::collection::vec((1u32.., 0u64..100_000), 1..20)
        ) {
            let (mut latency, mut now) = (Latency::default(), 1 << 40);
            for (micros, later) in seen {
                now += later;
                let before = latency.micros;
                latency = latency.observe(micros, now);
                let (low, high) = (before.min(micros), before.max(micros));
                // A float has 24 bits.
                let slack = high / (1 << 20) + 1;
                prop_assert!(latency.micros <= high.saturating_add(slack));
                prop_assert!(before == 0 || latency.micros >= low.saturating_sub(slack));
                prop_assert_eq!(Latency::from_bits(latency.to_bits()), latency);
            }
        }

        #[test]
        fn of_two_at_most_one_is_handicapped_and_never_beyond_the_limit(
            a in 0u32.., b in 0u32.., then in 0u64..1 << 33, now in 0u64..1 << 33,
        ) {
            let (a, b) = (Latency { micros: a, at: then as u32 }, Latency { micros: b, at: 0 });
            let (one, other) = (a.handicap(b, now), b.handicap(a, now));
            prop_assert!(one == 1.0 || other == 1.0);
            prop_assert!((1.0..=HANDICAP_LIMIT).contains(&one) && (1.0..=HANDICAP_LIMIT).contains(&other));
        }
    }
}
