#![doc = include_str!("../README.md")]

pub mod config;
pub mod data;
pub mod domain;
pub mod error;
pub mod handlers;
pub mod kept;
pub mod server;
pub mod store;
pub mod supervisor;

pub use server::{Running, start};
