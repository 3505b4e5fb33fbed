#![doc = include_str!("../README.md")]

mod access;
mod config;
pub mod domain;
mod error;
mod grants;
mod handlers;
mod routes;
mod server;
mod store;

pub use config::{Args, Config};
pub use server::{Running, StartError, start};
