//! Decisions: no clock, no files, no network.

pub(crate) mod argv;
pub(crate) mod checks;
pub(crate) mod docker;
pub(crate) mod env;
pub(crate) mod flynnrc;
pub(crate) mod git_source;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod later;
pub(crate) mod limits;
pub(crate) mod log;
pub(crate) mod pem;
pub(crate) mod pin;
pub(crate) mod releases;
pub(crate) mod resources;
pub(crate) mod routes;
pub(crate) mod scale;
pub(crate) mod screen;
pub(crate) mod suggest;
pub(crate) mod table;
pub(crate) mod target;
pub(crate) mod time;
pub(crate) mod volumes;
