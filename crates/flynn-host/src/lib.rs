#![doc = include_str!("../README.md")]

mod backend;
mod cluster;
pub mod commands;
mod config;
mod disk;
mod domain;
mod error;
mod handlers;
mod host;
mod identity;
mod jobs;
mod layer0;
mod logs;
mod routes;
mod server;
mod subnet;
mod terms;

pub use config::{Cli, Client, Command, Config, DataDir, Init};
pub use domain::net::{Cidr, InvalidCidr};
pub use identity::{HostFile, IdentityError, init};
pub use server::{Running, start};
