#![doc = include_str!("../README.md")]

mod cluster;
mod room;

pub use cluster::{Cluster, Commit, HostInfo, Orders, placed};
pub use room::{CPU_OVERCOMMIT, Room};
