#![doc = include_str!("../README.md")]

mod attached;
mod config;
mod cors;
mod deletions;
mod deployer;
mod domain;
mod error;
mod events;
mod formations;
mod git_deploys;
mod handlers;
mod in_place;
mod logs;
mod neighbours;
mod one_off;
mod orphans;
mod purges;
mod retention;
mod routes;
mod scope;
mod server;
mod store;
mod unordered;
mod usage;
mod volumes;
mod wishes;

pub use config::{Args, Config};
pub use domain::retention::Policy as Retention;
pub use server::{Running, StartError, start};
