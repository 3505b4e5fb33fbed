#![doc = include_str!("../README.md")]

mod backend;
pub mod config;
mod domain;
mod error;
mod handlers;
mod handover;
mod live;
mod proxy;
mod routes;
pub mod server;
mod store;
mod tls;
mod watch;

pub use config::Config;
pub use server::{Running, start};
