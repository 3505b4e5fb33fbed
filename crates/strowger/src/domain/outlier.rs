//! Which backend is left out for a while because it fails, and how it comes back.
//!
//! After Envoy's outlier detection
//! (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier>): failures in a row, ejections that
//! grow, a limit of how many may be out at once. Coming back goes through one request that tries it, as with a half-open
//! circuit breaker (Michael Nygard, "Release It!", 2007).
//!
//! What is out is used last, not never: a request for which nothing else is left goes there.

use super::pick::Standing;

/// How long the first ejection lasts; each further one twice as long.
const EJECTION_MS: u64 = 1_000;
/// Longest ejection.
const EJECTION_LIMIT_MS: u64 = 16_000;
/// An ejection that ended so long ago makes the next no longer.
const MEMORY_MS: u64 = 60_000;
/// Answers in a row that say that there is none (502, 503, 504), after which a backend is ejected.
const BAD_ANSWERS: u8 = 5;
/// The request that tries a backend has so long; then another one may.
const TRIAL_MS: u64 = 10_000;
/// Only a request that can be sent again tries a backend, unless none came for so long.
const TRIAL_PATIENCE_MS: u64 = 5_000;

/// What a backend did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It took no connection for too long. It may be busy, which is no worse the next time.
    TimedOut,
    /// It refused a connection: nobody is there.
    Refused,
    /// It took a new connection and lost it without an answer.
    Lost,
    /// It answered that it cannot answer (502, 503, 504), or what is not HTTP. Its own 500 is none of these.
    BadAnswer,
}

/// What a backend did right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Success {
    /// It took a connection.
    Connected,
    /// It answered.
    Answered,
}

/// The backends of a service as far as ejections are concerned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Peers {
    /// How many are ejected.
    pub(crate) ejected: usize,
    /// How many there are.
    pub(crate) all: usize,
}

impl Peers {
    /// Whether one more may be: at most half of them, so that those that are left are not given more than twice the work,
    /// and fail of it.
    fn have_room(self) -> bool {
        self.ejected < self.all.div_ceil(2)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// Like any other.
    #[default]
    Serving,
    /// Out, until its time is over and a request tries it.
    Ejected,
    /// Out, while a request tries it.
    OnTrial,
}

/// What is known of a backend's failures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Outlier {
    phase: Phase,
    /// It was ejected for what only an answer makes good: that it takes connections does not mean that it answers.
    needs_answer: bool,
    /// Failures since the last success.
    in_a_row: u8,
    /// How often it was ejected of late.
    ejections: u8,
    /// When the ejection, or the trial, ends or ended; in milliseconds.
    until_ms: u64,
}

impl Outlier {
    /// Whether it is neither ejected nor on trial.
    pub(crate) fn is_serving(self) -> bool {
        self.phase == Phase::Serving
    }

    /// How willingly it is chosen.
    pub(crate) fn standing(self, now_ms: u64) -> Standing {
        match self.phase {
            Phase::Serving => Standing::Good,
            _ if now_ms < self.until_ms => Standing::Last,
            _ if now_ms < self.until_ms.saturating_add(TRIAL_PATIENCE_MS) => Standing::Due,
            _ => Standing::Overdue,
        }
    }

    /// A request tries it from now on; `None` if it is not to be tried.
    pub(crate) fn try_again(self, now_ms: u64) -> Option<Self> {
        let is_due = !self.is_serving() && now_ms >= self.until_ms;
        is_due.then_some(Self { phase: Phase::OnTrial, until_ms: now_ms + TRIAL_MS, ..self })
    }

    /// After a failure.
    pub(crate) fn fail(self, fault: Fault, peers: Peers, now_ms: u64) -> Self {
        // What else was under way when it was ejected, or found nothing better, says nothing new: it is no longer out, but anew.
        if self.phase == Phase::Ejected && now_ms < self.until_ms {
            let until_ms = self.until_ms.max(now_ms + length(self.ejections.saturating_sub(1)));
            return Self { until_ms, ..self };
        }
        let in_a_row = self.in_a_row.saturating_add(1);
        let failed = Self { in_a_row, ..self };
        if fault == Fault::BadAnswer && in_a_row < BAD_ANSWERS && self.is_serving() {
            return failed;
        }
        // One that refuses serves nobody, so nobody has more to do without it.
        if self.is_serving() && fault != Fault::Refused && !peers.have_room() {
            return failed;
        }
        let forgotten = now_ms > self.until_ms.saturating_add(MEMORY_MS);
        let before = if forgotten { 0 } else { self.ejections };
        let (long, ejections) = match fault {
            Fault::TimedOut => (length(0), before),
            _ => (length(before), before.saturating_add(1)),
        };
        Self {
            phase: Phase::Ejected,
            needs_answer: matches!(fault, Fault::Lost | Fault::BadAnswer),
            in_a_row,
            ejections,
            until_ms: now_ms + long,
        }
    }

    /// After a success.
    pub(crate) fn succeed(self, success: Success, now_ms: u64) -> Self {
        let makes_good = match success {
            Success::Connected => !self.needs_answer,
            // Where it takes no connections, answers on those it has say nothing, unless one was asked for.
            Success::Answered => self.needs_answer || self.phase == Phase::OnTrial,
        };
        match self.phase {
            Phase::Serving if success == Success::Answered => Self { in_a_row: 0, ..self },
            Phase::Ejected | Phase::OnTrial if makes_good => Self {
                phase: Phase::Serving,
                needs_answer: false,
                in_a_row: 0,
                until_ms: self.until_ms.min(now_ms),
                ..self
            },
            _ => self,
        }
    }

    /// In one word, to be shared between threads.
    pub(crate) fn to_bits(self) -> u64 {
        let small =
            [self.phase as u8 | u8::from(self.needs_answer) << 2, self.in_a_row, self.ejections];
        let small = small.into_iter().fold(0, |bits, byte| bits << 8 | u64::from(byte));
        small << 40 | self.until_ms & UNTIL_MASK
    }

    /// The opposite.
    pub(crate) fn from_bits(bits: u64) -> Self {
        let [_, _, _, _, _, first, in_a_row, ejections] = (bits >> 40).to_be_bytes();
        let phase = match first & 3 {
            1 => Phase::Ejected,
            2 => Phase::OnTrial,
            _ => Phase::Serving,
        };
        let needs_answer = first & 4 != 0;
        Self { phase, needs_answer, in_a_row, ejections, until_ms: bits & UNTIL_MASK }
    }
}

/// How long an ejection lasts after so many.
fn length(before: u8) -> u64 {
    (EJECTION_MS << before.min(8)).min(EJECTION_LIMIT_MS)
}

/// 34 years of milliseconds.
const UNTIL_MASK: u64 = (1 << 40) - 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AMPLE: Peers = Peers { ejected: 0, all: 9 };

    fn fault() -> impl Strategy<Value = Fault> {
        prop::sample::select(&[Fault::TimedOut, Fault::Refused, Fault::Lost, Fault::BadAnswer][..])
    }

    #[test]
    fn an_ejected_one_comes_back_through_one_request() {
        let ejected = Outlier::default().fail(Fault::Lost, AMPLE, 0);
        assert_eq!(ejected.standing(999), Standing::Last);
        assert_eq!(ejected.try_again(999), None);
        assert_eq!(ejected.standing(1_000), Standing::Due);
        let tried = ejected.try_again(1_000).unwrap();
        assert_eq!((tried.standing(1_001), tried.try_again(1_001)), (Standing::Last, None));
        assert_eq!(tried.succeed(Success::Connected, 1_002), tried, "it took connections before");
        assert_eq!(tried.succeed(Success::Answered, 1_002).standing(1_002), Standing::Good);
        assert_eq!(tried.standing(11_000), Standing::Due, "the request that tried it is lost");
        assert_eq!(ejected.standing(6_000), Standing::Overdue);
        let again = tried.fail(Fault::Lost, AMPLE, 1_010);
        assert_eq!((again.standing(3_009), again.standing(3_010)), (Standing::Last, Standing::Due));
    }

    #[test]
    fn one_that_flaps_is_out_for_longer_and_longer_and_a_busy_one_is_not() {
        let lengths = |fault| {
            let (mut outlier, mut now) = (Outlier::default(), 0);
            [(); 6].map(|()| {
                outlier = outlier.fail(fault, AMPLE, now);
                let long = outlier.until_ms - now;
                now = outlier.until_ms + 10;
                outlier = outlier.succeed(Success::Answered, now);
                long
            })
        };
        assert_eq!(lengths(Fault::Lost), [1_000, 2_000, 4_000, 8_000, 16_000, 16_000]);
        assert_eq!(lengths(Fault::TimedOut), [1_000; 6]);
    }

    #[test]
    fn what_says_that_it_cannot_answer_must_say_so_often() {
        let mut outlier = Outlier::default();
        for _ in 0..2 {
            for _ in 1..BAD_ANSWERS {
                outlier = outlier.fail(Fault::BadAnswer, AMPLE, 0);
                assert!(outlier.is_serving());
            }
            outlier = outlier.succeed(Success::Answered, 0);
        }
        let often = (0..BAD_ANSWERS).fold(outlier, |one, _| one.fail(Fault::BadAnswer, AMPLE, 0));
        assert!(!often.is_serving());
    }

    proptest! {
        #[test]
        fn never_more_than_half_are_out_for_what_others_could_suffer_of(
            all in 1usize..12, faults in prop::collection::vec((0usize..12, fault(), 0u64..500), 0..200),
        ) {
            let (mut backends, mut now) = (vec![Outlier::default(); all], 0);
            for (index, fault, later) in faults {
                now += later;
                let ejected = backends.iter().filter(|one| !one.is_serving()).count();
                let peers = Peers { ejected, all };
                let fault = if fault == Fault::Refused { Fault::Lost } else { fault };
                let one = &mut backends[index % all];
                *one = one.fail(fault, peers, now);
                let ejected = backends.iter().filter(|one| !one.is_serving()).count();
                prop_assert!(ejected <= all.div_ceil(2));
            }
        }

        #[test]
        fn an_ejection_ends_and_what_was_amiss_made_good_ends_it_at_once(
            faults in prop::collection::vec((fault(), 0u64..30_000), 1..50),
        ) {
            let (mut outlier, mut now) = (Outlier::default(), 0);
            for (fault, later) in faults {
                now += later;
                outlier = outlier.fail(fault, AMPLE, now);
                prop_assert_eq!(Outlier::from_bits(outlier.to_bits()), outlier);
                let limit = now + EJECTION_LIMIT_MS;
                prop_assert_ne!(outlier.standing(limit), Standing::Last);
                prop_assert!(outlier.is_serving() || outlier.try_again(limit).is_some());
                let good = outlier.succeed(Success::Connected, now).succeed(Success::Answered, now);
                prop_assert_eq!(good.standing(now), Standing::Good);
            }
        }
    }
}
