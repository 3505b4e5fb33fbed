#![doc = include_str!("../README.md")]

mod child;
mod commands;
pub mod config;
mod words;

pub use commands::run;
pub use config::Args;
