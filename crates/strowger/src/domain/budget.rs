//! How many requests of a service may be sent a second time.
//!
//! After the "retry budget" of Google's Site Reliability Engineering (O'Reilly 2016, chapter 21, "Handling Overload") and
//! of Finagle (<https://twitter.github.io/finagle/guide/Clients.html#retries>): where much is lost, sending all of it once
//! more is what keeps a service from coming back.

/// One repetition for so many requests.
const REQUESTS_EACH: u64 = 5;
/// And so many in each second, for services that are hardly asked.
const FLOOR_PER_SECOND: u64 = 10;
/// What counts is the present span and the one before.
const SPAN_MS: u64 = 5_000;

/// What was asked and repeated of late.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Budget {
    begun_ms: u64,
    /// All requests ever, when the present span began.
    seen: u64,
    repeated: u64,
    /// Requests and repetitions of the span before.
    before: (u64, u64),
}

impl Budget {
    /// For one more repetition, after so many requests in all: what is left then, or `None` if there is no more.
    pub(crate) fn spend(self, requests: u64, now_ms: u64) -> Option<Self> {
        let now = self.advance(requests, now_ms);
        let recent = now.before.0 + requests.saturating_sub(now.seen);
        let limit = recent / REQUESTS_EACH + FLOOR_PER_SECOND * 2 * SPAN_MS / 1_000;
        let spent = now.before.1 + now.repeated;
        (spent < limit).then_some(Self { repeated: now.repeated + 1, ..now })
    }

    /// Begins another span if the present one is over.
    fn advance(self, requests: u64, now_ms: u64) -> Self {
        let age = now_ms.saturating_sub(self.begun_ms);
        if age < SPAN_MS {
            return self;
        }
        // Those of a longer time are taken to have come evenly.
        let came = requests.saturating_sub(self.seen);
        let before = match age < 2 * SPAN_MS {
            true => (came, self.repeated),
            false => ((u128::from(came) * u128::from(SPAN_MS) / u128::from(age)) as u64, 0),
        };
        Self { begun_ms: now_ms, seen: requests, repeated: 0, before }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many repetitions there are at one moment.
    fn left(mut budget: Budget, requests: u64, now_ms: u64) -> u64 {
        let mut count = 0;
        while let Some(less) = budget.spend(requests, now_ms) {
            (budget, count) = (less, count + 1);
        }
        count
    }

    #[test]
    fn a_fifth_of_the_requests_and_a_few_are_repeated() {
        assert_eq!(left(Budget::default(), 0, 1_000), 100);
        assert_eq!(left(Budget::default(), 1_000, 1_000), 300);
        // An hour of 10 a second.
        assert_eq!(left(Budget::default(), 36_000, 3_600_000), 110);
    }

    proptest! {
        #[test]
        fn never_are_more_repeated_than_the_budget_has(
            steps in prop::collection::vec((0u64..2_000, 0u64..7_000, 0u64..500), 1..60),
        ) {
            let (mut budget, mut requests, mut now, mut repeated) = (Budget::default(), 0, 0, 0);
            for (more, later, wanted) in steps {
                requests += more;
                now += later;
                for _ in 0..wanted {
                    let Some(less) = budget.spend(requests, now) else { break };
                    (budget, repeated) = (less, repeated + 1);
                }
                // Each span counts twice: as the present one and as the one before.
                let floor = FLOOR_PER_SECOND * 2 * (now + 2 * SPAN_MS) / 1_000;
                prop_assert!(repeated <= 2 * requests / REQUESTS_EACH + floor);
            }
        }

        #[test]
        fn a_service_that_was_quiet_may_repeat_again(requests in 0u64..1 << 40, now in 0u64..1 << 40) {
            let spent = (0..1_000).try_fold(Budget::default(), |one, _| one.spend(0, 0)).unwrap_or_default();
            prop_assert!(spent.spend(requests, now + 2 * SPAN_MS).is_some());
        }
    }
}
