use api::volume::HostVolume;
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::ApiError;

use crate::{
    error::of_volume,
    routes::App,
    volumes::{folders, sizes},
};

pub(crate) async fn list(State(app): State<App>) -> Result<Json<Vec<HostVolume>>, ApiError> {
    let volumes = sizes::list(&app.host).await;
    volumes.map(Json).map_err(|err| ApiError::internal("listing the volumes", &err))
}

pub(crate) async fn remove(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<()>, ApiError> {
    folders::remove(&app.host, &name).await.map(Json).map_err(of_volume)
}
