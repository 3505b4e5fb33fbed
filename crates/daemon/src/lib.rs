#![doc = include_str!("../README.md")]

pub mod auth;
pub mod error;
pub mod events;
pub mod extract;
pub mod lifetime;
pub mod line;
mod opening;
pub mod reconcile;
pub mod relay;
mod seal;
pub mod serve;
pub mod sockets;
mod sources;
pub mod status;
pub mod telemetry;
pub mod upgraded;

pub use error::ApiError;
pub use extract::{Body, Query};
pub use lifetime::{Lifetime, WorkPanicked};
pub use seal::Seal;
pub use sources::{Share, Sources};
