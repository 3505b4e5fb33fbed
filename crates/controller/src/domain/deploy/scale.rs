//! Scaling an app while one release replaces another.

use std::collections::BTreeSet;

use api::controller::Release;

use super::DeployState;
use crate::store::Counts;

/// What somebody wants of an app's counts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// These and no others.
    All(Counts),
    /// These; what is not named stays.
    Some(Counts),
}

/// What a deployment ends with after a [`Change`], forward and back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Retargeted {
    /// Of the new release.
    pub(crate) target: Counts,
    /// Of the old release, should the deployment fail.
    pub(crate) original: Counts,
}

/// The counts after a change. What is 0 is not listed.
pub(crate) fn patched(present: &Counts, change: &Change) -> Counts {
    let mut counts = match change {
        Change::All(counts) => counts.clone(),
        Change::Some(counts) => {
            present.iter().chain(counts).map(|(kind, count)| (kind.clone(), *count)).collect()
        }
    };
    counts.retain(|_, count| *count > 0);
    counts
}

/// Changes what a deployment ends with. Each release takes of the change what it has.
pub(crate) fn retarget(
    target: &Counts,
    original: &Counts,
    (old, new): (Option<&Release>, &Release),
    change: &Change,
) -> Retargeted {
    let of = |release: &Release| {
        let known = |counts: &Counts| -> Counts {
            let known = counts.iter().filter(|(kind, _)| release.processes.contains_key(*kind));
            known.map(|(kind, count)| (kind.clone(), *count)).collect()
        };
        match change {
            Change::All(counts) => Change::All(known(counts)),
            Change::Some(counts) => Change::Some(known(counts)),
        }
    };
    Retargeted {
        target: patched(target, &of(new)),
        original: old.map(|old| patched(original, &of(old))).unwrap_or_default(),
    }
}

impl DeployState {
    /// Types of either release that run once a host.
    pub(crate) fn omni_of(new: &Release, old: Option<&Release>) -> BTreeSet<String> {
        let processes = new.processes.iter().chain(old.iter().flat_map(|old| &old.processes));
        processes.filter(|(_, process)| process.omni).map(|(kind, _)| kind.clone()).collect()
    }
}
