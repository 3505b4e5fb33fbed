//! Which backend takes a request.
//!
//! Of two chosen at random the better one (Michael Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing",
//! 1996), by the requests under way to it and by how long it takes.

use super::ewma::Latency;

/// How willingly a backend is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Like any other.
    Good,
    /// It failed; any request may try it now.
    Overdue,
    /// It failed; a request that can be sent again may try it now.
    Due,
    /// Only if there is no good one: it failed a moment ago, or may be dead.
    Last,
    /// Never: it was withdrawn.
    Gone,
}

/// What is chosen among.
pub(crate) trait Candidate {
    /// How willingly it is chosen.
    fn standing(&self, now_ms: u64) -> Standing;
    /// Requests under way to it.
    fn load(&self) -> u32;
    /// How long it takes.
    fn latency(&self) -> Latency;
    /// How much of what others get is for it, up to 1.
    fn warmth(&self, now_ms: u64) -> f32;
}

/// Most backends tried for one request.
pub(crate) const TRIES: usize = 4;

/// The backends a request has already been refused by.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tried {
    at: [usize; TRIES],
    len: usize,
}

impl Tried {
    /// Remembers one more. What is beyond [`TRIES`] is forgotten.
    pub(crate) fn add(&mut self, index: usize) {
        if let Some(slot) = self.at.get_mut(self.len) {
            *slot = index;
            self.len += 1;
        }
    }

    /// Whether no more shall be tried.
    pub(crate) fn is_full(&self) -> bool {
        self.len == TRIES
    }

    /// Whether it is one of them.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.at[..self.len].contains(&index)
    }
}

/// For whom a backend is chosen, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    /// Those that refused it.
    pub(crate) tried: &'a Tried,
    /// Whether it can be sent again, so that it may try a backend that failed.
    pub(crate) is_repeatable: bool,
    /// Milliseconds of a clock that all share.
    pub(crate) now_ms: u64,
}

impl Asker<'_> {
    /// How willingly a backend is chosen for it: 0 is best; `None` is not at all.
    fn rank<C: Candidate>(&self, candidates: &[C], index: usize) -> Option<u8> {
        if self.tried.has(index) {
            return None;
        }
        match candidates[index].standing(self.now_ms) {
            Standing::Good | Standing::Overdue => Some(0),
            Standing::Due => Some(u8::from(!self.is_repeatable)),
            Standing::Last => Some(2),
            Standing::Gone => None,
        }
    }
}

/// The better of two good backends chosen at random, or the best of those that are left.
///
/// `below(n)` gives a random number below `n`.
pub(crate) fn pick<C: Candidate>(
    candidates: &[C],
    asker: &Asker<'_>,
    mut below: impl FnMut(usize) -> usize,
) -> Option<usize> {
    let n = candidates.len();
    let first = if n > 1 { below(n) % n } else { 0 };
    if n > 1 {
        let mut other = (first + 1 + below(n - 1) % (n - 1)) % n;
        let is_good = |index| asker.rank(candidates, index) == Some(0);
        let mut one = first;
        if !is_good(one) {
            std::mem::swap(&mut one, &mut other);
        }
        if is_good(one) {
            // The other one is out: without another to compare with, a slow one would get as much as a fast one.
            for _ in 0..REDRAWS {
                if n == 2 || other != one && is_good(other) {
                    break;
                }
                other = below(n) % n;
            }
            let are_two = other != one && is_good(other);
            let best = are_two.then(|| better(candidates, one, other, asker.now_ms, below));
            return Some(best.unwrap_or(one));
        }
    }
    let left = (0..n).map(|step| (first + step) % n);
    left.filter_map(|index| Some((asker.rank(candidates, index)?, candidates[index].load(), index)))
        .min_by_key(|&(rank, load, _)| (rank, load))
        .map(|(.., index)| index)
}

/// The one of two that has less to do, where a slow one counts as busier than it is, and a new one is spared.
fn better<C: Candidate>(
    candidates: &[C],
    one: usize,
    other: usize,
    now_ms: u64,
    mut below: impl FnMut(usize) -> usize,
) -> usize {
    let (a, b) = (&candidates[one], &candidates[other]);
    let (of_a, of_b) = (a.latency(), b.latency());
    let cost_of_a = (a.load() as f32 + 1.0) * of_a.handicap(of_b, now_ms);
    let cost_of_b = (b.load() as f32 + 1.0) * of_b.handicap(of_a, now_ms);
    let (best, next, less, more) = match cost_of_b < cost_of_a {
        true => (other, one, cost_of_b, cost_of_a),
        false => (one, other, cost_of_a, cost_of_b),
    };
    let share = candidates[best].warmth(now_ms) / candidates[next].warmth(now_ms);
    // It is new. It gets its share of what it would get, and as much as there is under way to the other, times its share.
    let is_spared = less >= more * share && below(CHANCES) as f32 >= share * CHANCES as f32;
    if share < 1.0 && is_spared { next } else { best }
}

/// How often another is drawn in place of one that is out.
const REDRAWS: usize = 4;
/// How finely the share of a new backend is told.
const CHANCES: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    impl Candidate for (Standing, u32) {
        fn standing(&self, _: u64) -> Standing {
            self.0
        }
        fn load(&self) -> u32 {
            self.1
        }
        fn latency(&self) -> Latency {
            Latency::default()
        }
        fn warmth(&self, _: u64) -> f32 {
            1.0
        }
    }

    /// A good one with so much to do, that takes so many microseconds, and is there since.
    struct Good(u32, u32, u64);

    impl Candidate for Good {
        fn standing(&self, _: u64) -> Standing {
            Standing::Good
        }
        fn load(&self) -> u32 {
            self.0
        }
        fn latency(&self) -> Latency {
            Latency::default().observe(self.1, NOW)
        }
        fn warmth(&self, now_ms: u64) -> f32 {
            crate::domain::warmth::warmth(self.2, now_ms)
        }
    }

    fn asker(tried: &Tried, is_repeatable: bool) -> Asker<'_> {
        Asker { tried, is_repeatable, now_ms: NOW }
    }

    const NOW: u64 = 100_000;
    const OLD: u64 = 0;
    const NEW: u64 = NOW;

    /// How many of 10,000 requests the first of two gets.
    fn share_of_first(two: &[Good; 2]) -> usize {
        let mut random = StdRng::seed_from_u64(1);
        let (tried, mut count) = (Tried::default(), 0);
        for _ in 0..10_000 {
            let picked = pick(two, &asker(&tried, true), |n| random.random_range(0..n));
            count += usize::from(picked == Some(0));
        }
        count
    }

    #[test]
    fn a_slow_one_gets_as_much_as_it_can_bear_and_a_new_one_little_at_first() {
        assert_eq!(share_of_first(&[Good(0, 50_000, OLD), Good(6, 5_000, OLD)]), 0);
        assert_eq!(share_of_first(&[Good(0, 50_000, OLD), Good(8, 5_000, OLD)]), 10_000);
        let even = share_of_first(&[Good(0, 5_000, OLD), Good(0, 6_000, OLD)]);
        assert!((4_800..5_200).contains(&even), "{even}");
        let new = share_of_first(&[Good(0, 5_000, NEW), Good(0, 5_000, OLD)]);
        assert!((400..600).contains(&new), "{new}");
        assert_eq!(share_of_first(&[Good(0, 5_000, NEW), Good(10, 5_000, OLD)]), 10_000);
        let both = share_of_first(&[Good(0, 5_000, NEW), Good(0, 5_000, NEW)]);
        assert!((4_800..5_200).contains(&both), "{both}");
    }

    fn candidates() -> impl Strategy<Value = Vec<(Standing, u32)>> {
        let all =
            [Standing::Good, Standing::Overdue, Standing::Due, Standing::Last, Standing::Gone];
        prop::collection::vec((prop::sample::select(all.to_vec()), 0u32..5), 0..9)
    }

    proptest! {
        #[test]
        fn a_withdrawn_backend_is_never_chosen_and_a_good_one_first(
            candidates in candidates(), tried in prop::collection::vec(0usize..9, 0..4), a: usize, b: usize,
            is_repeatable: bool,
        ) {
            let mut refused = Tried::default();
            tried.iter().for_each(|&index| refused.add(index));
            let mut random = [a, b].into_iter();
            let asker = asker(&refused, is_repeatable);
            let picked = pick(&candidates, &asker, |_| random.next().unwrap_or_default());
            let rank = |index: usize| asker.rank(&candidates, index);
            match picked {
                Some(index) => {
                    prop_assert!(!tried.contains(&index));
                    prop_assert_ne!(candidates[index].0, Standing::Gone);
                    let best = (0..candidates.len()).filter_map(rank).min();
                    prop_assert_eq!(rank(index), best);
                    prop_assert!(is_repeatable || candidates[index].0 != Standing::Due || best == Some(1));
                }
                None => prop_assert!((0..candidates.len()).all(|index| rank(index).is_none())),
            }
        }

        #[test]
        fn of_two_good_ones_the_less_loaded_is_chosen(a in 0u32..9, b in 0u32..9, x: usize, y: usize) {
            let both = [(Standing::Good, a), (Standing::Good, b)];
            let mut random = [x, y].into_iter();
            let tried = Tried::default();
            let index = pick(&both, &asker(&tried, true), |_| random.next().unwrap_or_default()).unwrap();
            prop_assert_eq!(both[index].1, a.min(b));
        }
    }
}
