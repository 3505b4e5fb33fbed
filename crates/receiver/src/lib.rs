#![doc = include_str!("../README.md")]

mod build;
pub mod config;
mod console;
mod deploy;
pub mod domain;
mod failure;
pub mod key_check;
mod receive;
pub mod settings;
mod turn;

pub use console::Console;
pub use failure::Failure;
pub use receive::receive;
