#![doc = include_str!("../README.md")]

mod config;
mod conversation;
pub mod domain;
mod git;
pub mod hook;
mod keyring;
mod lease;
mod pack;
mod push;
mod receiver;
mod repos;
mod server;
mod ssh;
mod survey;

pub use config::{Args, Config, ConfigError};
pub use server::{Running, StartError, start};
