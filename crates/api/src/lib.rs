#![doc = include_str!("../README.md")]

pub mod blob;
pub mod cluster;
pub mod controller;
pub mod discoverd;
pub mod error;
pub mod expand;
pub mod git;
pub mod host;
pub mod id;
pub mod image;
pub mod key;
pub mod reserved;
pub mod route;
pub mod size;
pub mod slug;
pub mod volume;
