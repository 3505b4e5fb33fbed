//! Names, texts, numbers. Pure.

pub mod names;
pub mod quota;
pub mod settings;

/// The superuser.
pub const SUPERUSER: &str = "flynn";
