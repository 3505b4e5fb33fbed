#![doc = include_str!("../README.md")]

pub mod bring;
pub mod config;
pub mod domain;
pub mod init;
pub mod site;

pub use config::Config;
