//! What may be thrown away: things that nobody uses any more, by how long, how many, and how short of disk the host is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long each thing has not been used, of the time this host looked at it: neither a leap of the clock nor a time in
/// which the daemon was away makes anything old.
pub(crate) type Idle = BTreeMap<String, Duration>;

/// Removed at once of what is there for want of disk only: how much that frees is seen at the next look.
const AT_ONCE_FOR_DISK: usize = 4;

/// What is kept of a kind of things, although nobody uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// So many, those used last.
    pub(crate) most: usize,
    /// So long.
    pub(crate) longest: Duration,
    /// Also while the host is short of disk.
    pub(crate) when_short: bool,
}

/// Brings the times up to date: what is there and not used grows older by the time since the last look; what is used or
/// was not there before begins at nothing.
pub(crate) fn age(
    idle: &Idle,
    present: &BTreeSet<String>,
    used: &BTreeSet<String>,
    since_last: Duration,
) -> Idle {
    let unused = present.difference(used);
    let aged = unused.map(|name| {
        let before = idle.get(name).map(|before| before.saturating_add(since_last));
        (name.clone(), before.unwrap_or_default())
    });
    aged.collect()
}

/// What to remove, the longest unused first. Nothing that was first seen unused at this look: it may be about to be used.
pub(crate) fn surplus(idle: &Idle, kept: Kept, short: bool) -> Vec<&str> {
    let mut unused: Vec<(Duration, &str)> =
        idle.iter().map(|(name, idle)| (*idle, name.as_str())).collect();
    unused.sort_by(|a, b| b.cmp(a));
    let too_many = unused.len().saturating_sub(kept.most);
    let for_disk = if short && !kept.when_short { AT_ONCE_FOR_DISK } else { 0 };
    let removed = unused.into_iter().enumerate().filter(|(n, (idle, _))| {
        *idle > Duration::ZERO && (*n < too_many.max(for_disk) || *idle > kept.longest)
    });
    removed.map(|(_, (_, name))| name).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEPT: Kept = Kept { most: 2, longest: Duration::from_secs(100), when_short: false };

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn idle(all: &[(&str, u64)]) -> Idle {
        all.iter().map(|(name, s)| ((*name).to_owned(), Duration::from_secs(*s))).collect()
    }

    #[test]
    fn what_is_used_is_as_good_as_new_and_what_went_is_forgotten() {
        let before = idle(&[("a", 5), ("b", 5), ("gone", 5)]);
        let after =
            age(&before, &names(&["a", "b", "new"]), &names(&["b"]), Duration::from_secs(2));
        assert_eq!(after, idle(&[("a", 7), ("new", 0)]));
    }

    #[test]
    fn the_longest_unused_go_by_number_by_age_and_for_want_of_disk() {
        let all = idle(&[("a", 1), ("b", 99), ("c", 98)]);
        assert_eq!(surplus(&all, KEPT, false), ["b"]);
        assert_eq!(surplus(&idle(&[("a", 1), ("b", 101)]), KEPT, false), ["b"]);
        assert_eq!(surplus(&idle(&[("a", 1), ("b", 2)]), KEPT, false), Vec::<&str>::new());
        assert_eq!(surplus(&idle(&[("a", 1), ("b", 2)]), KEPT, true), ["b", "a"]);
        let data = Kept { when_short: true, ..KEPT };
        assert_eq!(surplus(&idle(&[("a", 1), ("b", 2)]), data, true), Vec::<&str>::new());
    }

    fn idles() -> impl Strategy<Value = Idle> {
        prop::collection::btree_map("[a-e]", (0u64..200).prop_map(Duration::from_secs), 0..6)
    }

    fn sets() -> impl Strategy<Value = BTreeSet<String>> {
        prop::collection::btree_set("[a-e]", 0..6)
    }

    proptest! {
        #[test]
        fn nothing_used_or_new_is_removed(
            before in idles(), present in sets(), used in sets(), seconds in 0u64..200,
            most in 0usize..4, longest in 0u64..200, short: bool, when_short: bool,
        ) {
            let after = age(&before, &present, &used, Duration::from_secs(seconds));
            let kept = Kept { most, longest: Duration::from_secs(longest), when_short };
            for name in surplus(&after, kept, short) {
                prop_assert!(present.contains(name) && !used.contains(name));
                prop_assert!(before.contains_key(name), "it was seen unused before");
            }
        }

        #[test]
        fn what_stays_is_within_its_bounds(all in idles(), most in 0usize..4, longest in 0u64..200) {
            let kept = Kept { most, longest: Duration::from_secs(longest), when_short: true };
            let gone = surplus(&all, kept, true);
            let stays = all.iter().filter(|(name, idle)| {
                !gone.contains(&name.as_str()) && **idle > Duration::ZERO
            });
            let stays: Vec<_> = stays.collect();
            prop_assert!(stays.len() <= most);
            prop_assert!(stays.iter().all(|(_, idle)| **idle <= kept.longest));
            let youngest_gone = gone.iter().map(|name| all[*name]).min();
            let oldest_kept = stays.iter().map(|(_, idle)| **idle).max();
            prop_assert!(youngest_gone.is_none() || oldest_kept <= youngest_gone);
        }
    }
}
