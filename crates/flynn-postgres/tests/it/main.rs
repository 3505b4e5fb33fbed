//! flynn-postgres-api over HTTP, with the real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test may fail that way")]

mod databases;
mod removal;
mod support;
mod unfinished;
