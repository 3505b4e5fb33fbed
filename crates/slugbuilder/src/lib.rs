#![doc = include_str!("../README.md")]

pub mod build;
pub mod buildpack;
pub mod config;
pub mod console;
pub mod domain;
pub mod error;
pub mod pack;
pub mod process;
pub mod transfer;
pub mod unpack;

pub use build::build;
pub use config::Config;
pub use error::BuildError;
