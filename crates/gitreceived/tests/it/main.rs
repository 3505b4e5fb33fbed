//! Real pushes over real SSH: alone with two scripts, and in a cluster whose controller is faked on the wire.
#![expect(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod alone;
mod bounds;
mod branches;
mod lone;
mod mishaps;
mod moving;
mod push;
mod refs;
mod trees;
mod world;
