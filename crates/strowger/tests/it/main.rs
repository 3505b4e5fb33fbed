//! A router in this process, over real connections, with backends that are faked on the wire.
#![expect(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod access;
mod acme;
mod api;
mod backends;
mod balance;
mod corpus;
mod handover;
mod harness;
mod limits;
mod messages;
mod metrics;
mod routing;
mod sticky;
mod streams;
mod stuck;
mod tls;
