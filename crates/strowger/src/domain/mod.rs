//! Decisions, without IO, clock or chance.

pub(crate) mod budget;
pub(crate) mod code;
pub(crate) mod discovery;
pub(crate) mod entry;
pub(crate) mod ewma;
pub(crate) mod headers;
pub(crate) mod host;
pub(crate) mod limits;
pub(crate) mod outlier;
pub(crate) mod pace;
pub(crate) mod pick;
pub(crate) mod route;
#[cfg(test)]
mod simulation;
pub(crate) mod sticky;
pub(crate) mod strict;
pub(crate) mod table;
pub(crate) mod warmth;
