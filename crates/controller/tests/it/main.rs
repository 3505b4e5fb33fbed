//! The controller in process, on a real Postgres, driven through its client; its neighbours are faked on the wire.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod apps;
mod compat;
mod deletions;
mod deployments;
mod events;
mod jobs;
mod logs;
mod neighbours;
mod odd;
mod resources;
mod retention;
mod scheduler;
mod world;
