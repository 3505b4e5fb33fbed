#![doc = include_str!("../README.md")]

mod accept;
mod cluster;
mod moments;
mod room;
mod silence;
mod takeover;

pub use accept::{has_room, obey};
pub use cluster::{Cluster, Commit, HostInfo, Orders, placed};
pub use moments::{Moments, ORDER_TIMEOUT};
pub use room::{CPU_OVERCOMMIT, Room};
pub use silence::{LEADING_PATIENCE, Silence, TAKEOVER_PATIENCE};
pub use takeover::Takeover;
