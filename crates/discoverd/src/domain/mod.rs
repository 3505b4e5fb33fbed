//! Decisions. No IO, no clock.

pub mod directory;
pub(crate) mod listing;
pub(crate) mod name;
pub(crate) mod registration;
pub(crate) mod zone;
