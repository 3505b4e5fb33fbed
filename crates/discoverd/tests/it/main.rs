//! A discoverd in this process, and as a process, on a real etcd.
#![expect(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod dns;
mod failures;
mod flood;
mod process;
mod relay;
mod services;
mod support;
