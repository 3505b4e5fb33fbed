#![doc = include_str!("../README.md")]

pub mod cluster;
pub mod config;
pub mod domain;
pub mod error;
pub mod run;
pub mod state;
pub mod steps;
