#![doc = include_str!("../README.md")]

pub mod domain;
mod run;

pub use run::{Args, run};
