#![doc = include_str!("../README.md")]

pub mod config;
pub mod domain;
pub mod execute;
pub mod leadership;
pub mod observe;
pub mod server;
pub mod tell;

pub use config::{Args, Config};
pub use server::{Running, StartError, start};
