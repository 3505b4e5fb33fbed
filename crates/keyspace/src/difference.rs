//! What must have happened between two looks.

use std::collections::BTreeMap;

use crate::{Change, Entry, LeaseId, Listing};

/// What a watcher was told of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    create_revision: u64,
    mod_revision: u64,
    lease: Option<LeaseId>,
}

/// Everything a watcher was told.
pub(crate) type Known = BTreeMap<String, Told>;

impl Change {
    pub(crate) fn put(entry: Entry) -> Self {
        let Entry { key, value, create_revision, mod_revision, lease } = entry;
        Self { key, value: Some(value), create_revision, mod_revision, lease }
    }
}

/// Remembers that a watcher was told of a change.
pub(crate) fn tell(known: &mut Known, change: &Change) {
    if change.value.is_some() {
        let Change { create_revision, mod_revision, lease, .. } = *change;
        known.insert(change.key.clone(), Told { create_revision, mod_revision, lease });
    } else {
        known.remove(&change.key);
    }
}

/// The changes that lead from what is known to a listing. A key that was deleted and made again gives both changes.
pub(crate) fn difference(known: &Known, listing: Listing) -> Vec<Change> {
    let revision = listing.revision;
    let gone = |key: &str, told: &Told| Change {
        key: key.into(),
        value: None,
        create_revision: told.create_revision,
        mod_revision: revision,
        lease: told.lease,
    };
    let mut changes = Vec::new();
    let mut present = std::collections::BTreeSet::new();
    let mut puts = Vec::new();
    for entry in listing.entries {
        let told = known.get(&entry.key);
        if let Some(told) = told.filter(|told| told.create_revision != entry.create_revision) {
            changes.push(gone(&entry.key, told));
        }
        present.insert(entry.key.clone());
        if told.is_none_or(|told| told.mod_revision != entry.mod_revision) {
            puts.push(Change::put(entry));
        }
    }
    changes.extend(
        known.iter().filter(|(key, _)| !present.contains(*key)).map(|(key, told)| gone(key, told)),
    );
    // In the order in which they were written.
    puts.sort_by_key(|change| change.mod_revision);
    changes.extend(puts);
    changes
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// A little etcd: key → (create revision, mod revision).
    type Store = BTreeMap<String, (u64, u64)>;

    fn listing(store: &Store, revision: u64) -> Listing {
        let entries = store.iter().map(|(key, &(create_revision, mod_revision))| Entry {
            key: key.clone(),
            value: Bytes::new(),
            create_revision,
            mod_revision,
            lease: None,
        });
        Listing { entries: entries.collect(), revision }
    }

    fn run(store: &mut Store, revision: &mut u64, writes: &[(u8, bool)]) {
        for (key, put) in writes {
            *revision += 1;
            let key = key.to_string();
            if *put {
                let created = store.get(&key).map_or(*revision, |&(created, _)| created);
                store.insert(key, (created, *revision));
            } else {
                store.remove(&key);
            }
        }
    }

    proptest! {
        #[test]
        fn telling_the_difference_brings_a_watcher_to_the_listing(
            before in prop::collection::vec((0u8..6, any::<bool>()), 0..20),
            after in prop::collection::vec((0u8..6, any::<bool>()), 0..20),
        ) {
            let (mut store, mut revision, mut known) = (Store::new(), 1, Known::new());
            for writes in [before, after] {
                let earlier = store.clone();
                run(&mut store, &mut revision, &writes);
                let changes = difference(&known, listing(&store, revision));
                for change in &changes {
                    // Who was created anew must be seen to go first.
                    if change.value.is_some() && let Some(&(created, _)) = earlier.get(&change.key) {
                        let still = created == change.create_revision;
                        prop_assert!(still || !known.contains_key(&change.key));
                    }
                    tell(&mut known, change);
                }
                let told: Store = known.iter()
                    .map(|(key, told)| (key.clone(), (told.create_revision, told.mod_revision))).collect();
                prop_assert_eq!(&told, &store);
                prop_assert!(difference(&known, listing(&store, revision)).is_empty());
            }
        }
    }
}
