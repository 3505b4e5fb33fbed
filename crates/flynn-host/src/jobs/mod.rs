//! The jobs of this host and what happens to them.

pub(crate) mod addresses;
pub(crate) mod announce;
mod asking;
pub(crate) mod container;
pub(crate) mod deaths;
pub(crate) mod health;
pub(crate) mod journal;
pub(crate) mod life;
pub(crate) mod limits;
pub(crate) mod orders;
pub(crate) mod output;
mod owners;
pub(crate) mod pump;
pub(crate) mod registry;
pub(crate) mod replace;
pub(crate) mod restore;
pub(crate) mod stop;
