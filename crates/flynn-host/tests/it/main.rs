//! A host on the real engine and a real etcd, over HTTP.
#![expect(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod attach;
mod boot;
mod callers;
mod cluster;
mod critical;
mod disk;
mod garbage;
mod images;
mod jobs;
mod join;
mod limits;
mod recovery;
mod removed;
mod replace;
mod slug;
mod stop;
mod support;
mod volumes;
