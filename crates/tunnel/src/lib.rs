#![doc = include_str!("../README.md")]

mod authority;
mod connection;
mod tls;

pub use authority::{Authority, AuthorityError, Certificate};
pub use connection::{Accepted, TunnelError, accept, dial, dial_unknown};
pub use tls::{Identity, Service};
