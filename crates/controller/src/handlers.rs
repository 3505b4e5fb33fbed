//! One file a resource: extract, call one thing, respond.

pub(crate) mod apps;
pub(crate) mod artifacts;
pub(crate) mod builds;
pub(crate) mod deployments;
pub(crate) mod events;
mod form;
pub(crate) mod formations;
pub(crate) mod git_deploys;
pub(crate) mod images;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod log;
mod page;
pub(crate) mod providers;
pub(crate) mod releases;
pub(crate) mod repositories;
pub(crate) mod resources;
pub(crate) mod routes;
pub(crate) mod run;
pub(crate) mod sinks;
pub(crate) mod usage;
pub(crate) mod volumes;

use std::str::FromStr;

use axum::{Json, response::Response};

use crate::error::{Error, Result};

/// What a handler of one object answers.
type Answer<T> = Result<Json<T>>;

/// The id in a path; what is no id names nothing.
fn id<T: FromStr>(what: &'static str, text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::missing(what, text))
}

/// 200 with nothing to say.
fn done() -> Result<Json<()>> {
    Ok(Json(()))
}

/// An answer of either of two forms.
type Either = Result<Response>;
