//! What each path does.

use api::controller::Provisioned;
use axum::{
    Json,
    extract::{Query, State},
};
use daemon::ApiError;
use serde::Deserialize;

use crate::{domain::names::BadId, store::Databases};

/// Makes a database.
pub async fn create_database(
    State(databases): State<Databases>,
) -> Result<Json<Provisioned>, ApiError> {
    Ok(Json(databases.create().await?))
}

/// Which database.
#[derive(Debug, Deserialize)]
pub struct Which {
    /// Its id.
    pub id: String,
}

/// Removes a database.
pub async fn delete_database(
    State(databases): State<Databases>,
    Query(which): Query<Which>,
) -> Result<Json<()>, ApiError> {
    let id = which.id.parse().map_err(|err: BadId| ApiError::invalid("id", err))?;
    Ok(Json(databases.delete(&id).await?))
}

/// Whether the server answers.
pub async fn ping(State(databases): State<Databases>) -> Result<(), ApiError> {
    Ok(databases.ping().await?)
}
