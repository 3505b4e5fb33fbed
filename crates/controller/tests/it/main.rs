//! The controller in process, on a real Postgres, driven through its client; its neighbours are faked on the wire.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod apps;
mod attached;
mod builds;
mod busy;
mod compat;
mod deletions;
mod deployments;
mod events;
mod git_deploys;
mod in_place;
mod jobs;
mod logs;
mod neighbours;
mod odd;
mod pages;
mod providers;
mod repositories;
mod resources;
mod retention;
mod scheduler;
mod tags;
mod upgrade;
mod usage;
mod volumes;
mod wishes;
mod world;
