#![doc = include_str!("../README.md")]

mod backend;
mod cluster;
pub mod commands;
mod config;
mod critical;
mod dial_back;
mod disk;
mod domain;
mod error;
mod etcd;
mod etcd_restore;
mod garbage;
mod grid;
mod handlers;
mod host;
mod identity;
mod jobs;
mod join;
mod layer0;
mod leaving;
mod logs;
mod neighbours;
mod recovery;
mod removal;
mod routes;
mod server;
mod subnet;
mod terms;
mod tunnel;
mod volumes;

pub use config::{Cli, Client, Command, Config, DataDir, Init, Join};
pub use domain::net::{Cidr, InvalidCidr};
pub use identity::{HostFile, IdentityError, Made, init};
pub use join::{InvalidInvitation, Invitation, JoinError, join_cluster};
pub use server::{Running, start};
