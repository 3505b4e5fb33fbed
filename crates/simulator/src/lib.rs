#![doc = include_str!("../README.md")]

mod etcd;
mod faults;
mod host;
mod jobs;
mod leader;
mod message;
mod oracle;
mod planner;
mod planning;
mod report;
mod world;

pub use report::{Coverage, Failure};
pub use world::run;
