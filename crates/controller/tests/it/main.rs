//! The controller in process, on a real Postgres, driven through its client; its neighbours are faked on the wire.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod apps;
mod deployments;
mod events;
mod in_place;
mod jobs;
mod neighbours;
mod scheduler;
mod upgrade;
mod wishes;
mod world;
