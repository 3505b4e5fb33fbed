#![doc = include_str!("../README.md")]

mod attached;
mod config;
mod deployer;
mod domain;
mod error;
mod events;
mod handlers;
mod logs;
mod neighbours;
mod one_off;
mod routes;
mod scope;
mod server;
mod store;

pub use config::{Args, Config};
pub use server::{Running, StartError, start};
