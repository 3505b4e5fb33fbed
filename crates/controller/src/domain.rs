//! Decisions, pure: no async, no IO, no clock, no dice.

pub(crate) mod app;
pub(crate) mod deploy;
pub(crate) mod form;
pub(crate) mod formation;
pub(crate) mod key;
pub(crate) mod locks;
pub(crate) mod owned_volumes;
pub(crate) mod place;
pub(crate) mod provider;
pub(crate) mod push;
pub(crate) mod refs;
pub(crate) mod release;
pub(crate) mod retention;
pub(crate) mod tail;
pub(crate) mod turn;
pub(crate) mod usage;
pub(crate) mod volumes;
