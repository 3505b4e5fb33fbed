#![doc = include_str!("../README.md")]

mod config;
mod error;
mod listen;
mod pool;
mod query;

pub use config::Config;
pub use deadpool_postgres::{Client, ClientWrapper as Session, GenericClient, Transaction};
pub use error::Error;
pub use listen::keep_listening;
pub use pool::Pool;
pub use query::{execute, row, row_opt, rows};
pub use tokio_postgres::{Row, types};
