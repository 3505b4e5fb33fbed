//! What the host does with the machine: the engine, its socket, the network.

pub(crate) mod engine;
pub(crate) mod fetched;
pub(crate) mod named_user;
pub(crate) mod network;
pub(crate) mod peers;
pub(crate) mod raw;
pub(crate) mod slug;
pub(crate) mod turns;
