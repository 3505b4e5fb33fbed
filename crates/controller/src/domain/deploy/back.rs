//! The way back of a deployment that failed, was cancelled or was overtaken.

use api::controller::Strategy;

use super::{DeployState, GO_BACK, LINGER, Step, of};
use crate::store::Counts;

impl DeployState {
    /// First the old release serves all it did while the new one serves on: types that were replaced already would have
    /// nobody meanwhile. Then the new one is taken away.
    pub(super) fn step_back(&self) -> Step {
        if self.over_itself {
            return Step::WentBack;
        }
        // Both releases cannot run at once.
        let unshared = self.strategy == Strategy::OneDownOneUp;
        let nothing = Counts::new();
        if self.has_old && self.old != self.original {
            let new = if unshared { nothing } else { self.new.clone() };
            return Step::Scale { old: self.original.clone(), new };
        }
        if !unshared && self.has_old && !self.old_serves_again() && self.waited() < GO_BACK {
            return Step::Wait;
        }
        if self.new.values().any(|&count| count > 0) {
            return Step::Scale { old: self.old.clone(), new: nothing };
        }
        if self.new_serves() && self.waited() < LINGER {
            return Step::Wait;
        }
        Step::WentBack
    }

    /// Whether the old release serves all it did.
    fn old_serves_again(&self) -> bool {
        let serves = |(kind, &count): (&String, &u32)| {
            let needed = if self.omni.contains(kind) { count.min(1) } else { count };
            of(&self.seen.old_up, kind) >= needed
        };
        self.original.iter().all(serves)
    }
}
