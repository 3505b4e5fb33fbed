#![doc = include_str!("../README.md")]
#![expect(
    clippy::unwrap_used,
    reason = "a test whose servers cannot be started has failed, and a panic is how it says so"
)]

mod etcd;
mod folder;
mod pebble;
mod port;
mod postgres;
mod process;
mod sockets;
mod wait;

pub use etcd::Etcd;
pub use pebble::{Pebble, PebbleOptions};
pub use port::free_port;
pub use postgres::Postgres;
pub use sockets::sockets_to;
pub use wait::{LIMIT, wait_until, wait_until_for};
