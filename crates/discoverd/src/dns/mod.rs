//! DNS over UDP and TCP: our zone from memory, everything else by asking the servers of the host.

mod forward;
mod server;

pub(crate) use forward::Forwarder;
pub(crate) use server::{Server, bind};
