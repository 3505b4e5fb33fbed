//! Decisions, without IO, clock or chance.

pub(crate) mod addresses;
pub(crate) mod catch_up;
pub(crate) mod critical;
pub(crate) mod firewall;
pub(crate) mod garbage;
pub(crate) mod job;
pub(crate) mod limits;
pub(crate) mod lines;
pub(crate) mod manifest;
pub(crate) mod membership;
pub(crate) mod mux;
pub(crate) mod net;
pub(crate) mod overlay;
pub(crate) mod replace;
pub(crate) mod signals;
pub(crate) mod single_tar;
pub(crate) mod slug_tar;
pub(crate) mod sockets;
pub(crate) mod spec;
pub(crate) mod users;
