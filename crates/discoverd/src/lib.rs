#![doc = include_str!("../README.md")]

pub mod config;
mod dns;
pub mod domain;
mod election;
mod error;
mod handlers;
mod lease;
mod mirror;
mod registrar;
mod relay;
mod routes;
mod server;
mod source;
mod sse;
mod store;

pub use config::{Args, Config};
pub use server::{Running, StartError, start};
