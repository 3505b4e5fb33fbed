//! What each path does.

use api::controller::{IDEMPOTENCY_KEY, Provisioned};
use axum::{
    Json,
    extract::{Query, State},
    http::HeaderMap,
};
use daemon::{ApiError, Body, Lifetime};
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::{
    domain::names::{BadId, Name},
    store::{Databases, StoreError},
};

/// The databases, and the daemon to which the work on them belongs: cut off with the request for it, it would be half done.
#[derive(Debug, Clone)]
pub struct Work {
    /// The databases.
    pub databases: Databases,
    /// The daemon.
    pub lifetime: Lifetime,
}

/// What is wished of a new database: there is nothing to choose, and who wishes for something learns that.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wishes {}

/// Makes a database. One with the same idempotency key, a UUID, is the same one.
pub async fn create_database(
    State(Work { databases, lifetime }): State<Work>,
    headers: HeaderMap,
    _: Body<Option<Wishes>>,
) -> Result<Json<Provisioned>, ApiError> {
    let name = match headers.get(IDEMPOTENCY_KEY) {
        None => None,
        Some(key) => {
            let key = key.to_str().unwrap_or_default().replace('-', "").to_ascii_lowercase();
            let bad = |_: BadId| ApiError::invalid(IDEMPOTENCY_KEY, "is no UUID");
            Some(key.parse::<Name>().map_err(bad)?)
        }
    };
    // When the client hangs up the request is dropped, and this receiver with it: that is how the work learns of it.
    let (answer, _waits) = oneshot::channel::<()>();
    let work = async move { databases.create(name, || !answer.is_closed()).await };
    let made = lifetime.carry_out(work).await;
    Ok(Json(made.map_err(StoreError::from)??))
}

/// Which database.
#[derive(Debug, Deserialize)]
pub struct Which {
    /// Its id.
    pub id: String,
}

/// Removes a database.
pub async fn delete_database(
    State(Work { databases, lifetime }): State<Work>,
    Query(which): Query<Which>,
) -> Result<Json<()>, ApiError> {
    let id = which.id.parse().map_err(|err: BadId| ApiError::invalid("id", err))?;
    let deleted = lifetime.carry_out(async move { databases.delete(&id).await }).await;
    Ok(Json(deleted.map_err(StoreError::from)??))
}

/// Whether it can make databases: the server answers.
pub async fn health(databases: Databases) -> Result<(), String> {
    databases.ping().await.map_err(|err| err.to_string())
}

/// Whether the server answers.
pub async fn ping(State(databases): State<Databases>) -> Result<(), ApiError> {
    databases.ping().await.map_err(|err| (&*err).into())
}
