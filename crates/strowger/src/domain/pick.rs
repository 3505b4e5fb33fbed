//! Which backend takes a request.

/// How willingly a backend is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Like any other.
    Good,
    /// Only if there is no good one: it failed a moment ago, or may be dead.
    Last,
    /// Never: it was withdrawn.
    Gone,
}

/// What is chosen among.
pub(crate) trait Candidate {
    /// Requests under way to it.
    fn load(&self) -> u32;
    /// How willingly it is chosen.
    fn standing(&self) -> Standing;
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

    fn has(&self, index: usize) -> bool {
        self.at[..self.len].contains(&index)
    }
}

/// The less loaded of two good backends chosen at random, or the least loaded of those that are left.
///
/// `below(n)` gives a random number below `n`.
pub(crate) fn pick<C: Candidate>(
    candidates: &[C],
    tried: &Tried,
    mut below: impl FnMut(usize) -> usize,
) -> Option<usize> {
    let good =
        |index: &usize| candidates[*index].standing() == Standing::Good && !tried.has(*index);
    let n = candidates.len();
    if n > 1 {
        let one = below(n) % n;
        let other = (one + 1 + below(n - 1) % (n - 1)) % n;
        let two = [one, other].into_iter().filter(good);
        if let Some(index) = two.min_by_key(|&index| candidates[index].load()) {
            return Some(index);
        }
    }
    let left = (0..n).filter(|&index| !tried.has(index));
    left.map(|index| (candidates[index].standing(), candidates[index].load(), index))
        .filter(|(standing, ..)| *standing != Standing::Gone)
        .min()
        .map(|(.., index)| index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Candidate for (Standing, u32) {
        fn load(&self) -> u32 {
            self.1
        }
        fn standing(&self) -> Standing {
            self.0
        }
    }

    fn candidates() -> impl Strategy<Value = Vec<(Standing, u32)>> {
        let standing =
            prop_oneof![Just(Standing::Good), Just(Standing::Last), Just(Standing::Gone)];
        prop::collection::vec((standing, 0u32..5), 0..9)
    }

    proptest! {
        #[test]
        fn a_withdrawn_backend_is_never_chosen_and_a_good_one_first(
            candidates in candidates(), tried in prop::collection::vec(0usize..9, 0..4), a: usize, b: usize,
        ) {
            let mut refused = Tried::default();
            tried.iter().for_each(|&index| refused.add(index));
            let mut random = [a, b].into_iter();
            let picked = pick(&candidates, &refused, |_| random.next().unwrap_or_default());
            let left = |standing| (0..candidates.len())
                .any(|index| !tried.contains(&index) && candidates[index].0 == standing);
            match picked {
                Some(index) => {
                    prop_assert!(!tried.contains(&index));
                    prop_assert_ne!(candidates[index].0, Standing::Gone);
                    prop_assert!(candidates[index].0 == Standing::Good || !left(Standing::Good));
                }
                None => prop_assert!(!left(Standing::Good) && !left(Standing::Last)),
            }
        }

        #[test]
        fn of_two_good_ones_the_less_loaded_is_chosen(a in 0u32..9, b in 0u32..9, x: usize, y: usize) {
            let both = [(Standing::Good, a), (Standing::Good, b)];
            let mut random = [x, y].into_iter();
            let index = pick(&both, &Tried::default(), |_| random.next().unwrap_or_default()).unwrap();
            prop_assert_eq!(both[index].1, a.min(b));
        }
    }
}
