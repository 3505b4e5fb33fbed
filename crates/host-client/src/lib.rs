#![doc = include_str!("../README.md")]

mod cluster;
mod host;
mod lines;

pub use cluster::{Cluster, CommitError};
pub use host::Host;
