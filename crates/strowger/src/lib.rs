#![doc = include_str!("../README.md")]

mod acme;
mod backend;
pub mod config;
mod domain;
mod error;
mod gate;
mod handlers;
mod handover;
pub mod limits;
mod live;
mod meters;
mod metrics;
mod proxy;
mod routes;
mod seal;
pub mod server;
mod store;
mod tls;
mod validity;
mod watch;

pub use acme::AcmeSettings;
pub use config::Config;
pub use limits::LimitConfig;
pub use server::{Running, start};
