//! Decisions, pure: no waiting, no clock, no dice, ordered maps.

pub mod backoff;
mod census;
mod homes;
pub mod job;
mod merge;
mod placement;
mod plan;
mod report;
pub mod snapshot;
pub mod view;

pub use merge::merge;
pub use plan::{Plan, Waiting, plan};
pub use report::{Reports, reports};
pub use snapshot::{Formations, HostView, Place, Snapshot};
pub use view::View;

#[cfg(test)]
mod tests;
