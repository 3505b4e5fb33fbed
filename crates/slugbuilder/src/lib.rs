#![doc = include_str!("../README.md")]

pub mod build;
pub mod buildpack;
mod choose;
pub mod config;
pub mod console;
pub mod domain;
pub mod error;
pub mod fetch;
pub mod init;
pub mod pack;
pub mod process;
pub mod transfer;
pub mod unpack;

pub use build::{build, build_with};
pub use config::Config;
pub use error::BuildError;
