//! Pure rules: what a client may ask for, which keys count, which pushes are taken.

pub mod command;
pub mod key;
pub mod update;
