#![doc = include_str!("../README.md")]

mod aliases;
mod alone;
mod checks;
mod config;
mod conversation;
mod disk;
pub mod domain;
mod door;
mod failure;
mod frames;
mod git;
pub mod guard;
pub mod hook;
mod hosting;
mod keyring;
mod lease;
mod leave;
mod moving;
mod pack;
mod place;
mod push;
mod ready;
mod receiver;
mod repos;
mod right;
mod run_dir;
mod server;
mod slots;
mod ssh;
mod survey;
mod turns;

pub use config::{Args, ClusterConfig, Config, ConfigError};
pub use server::{Running, StartError, start};
