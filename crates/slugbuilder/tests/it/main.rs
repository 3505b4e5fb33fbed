//! Builds by our buildpacks and by those of tests, and what the builder gets and puts by HTTP.
#![expect(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod build;
mod common;
mod packs;
mod store;
