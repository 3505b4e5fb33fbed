//! Decisions, without IO, clock or chance.

pub(crate) mod discovery;
pub(crate) mod headers;
pub(crate) mod host;
pub(crate) mod limits;
pub(crate) mod pace;
pub(crate) mod pick;
pub(crate) mod route;
pub(crate) mod table;
