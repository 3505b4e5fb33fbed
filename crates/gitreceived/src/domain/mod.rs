//! Pure rules: what a client may ask for, which keys and users count, which pushes are taken, what a tree holds.

pub mod aliases;
pub mod command;
pub mod key;
pub mod names;
pub(crate) mod reach;
pub mod refusal;
pub mod rules;
pub(crate) mod told;
pub mod tree;
pub mod update;
pub mod user;
