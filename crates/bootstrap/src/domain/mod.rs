//! Decisions: what a manifest says, and what its templates stand for. No IO.

pub mod interpolate;
pub mod manifest;
