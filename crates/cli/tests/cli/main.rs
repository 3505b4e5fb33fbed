//! The binary as a person runs it, against a controller that is faked on the wire.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod apps;
mod attached;
mod documented;
mod fake;
mod git_deploy;
mod person;
mod resources;
mod running;
mod scene;
mod scripts;
mod seen;
mod servers;
mod tls;
mod volumes;
mod words;
mod world;
