//! `/volumes`, `/apps/:app/volumes`.

use api::volume::Volume;
use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::Deserialize;

use super::Answer;
use crate::{error::Error, server::Controller, store, volumes};

pub(crate) async fn list(State(controller): State<Controller>) -> Answer<Vec<Volume>> {
    Ok(Json(volumes::list(&controller).await?))
}

pub(crate) async fn of_app(
    State(controller): State<Controller>,
    Path(app): Path<String>,
) -> Answer<Vec<Volume>> {
    let app = store::apps::find(&controller.db.client().await?, &app).await?;
    Ok(Json(volumes::of_app(&controller, &app).await?))
}

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path((app, volume)): Path<(String, String)>,
) -> Answer<Volume> {
    let app = store::apps::find(&controller.db.client().await?, &app).await?;
    let mut volumes = volumes::of_app(&controller, &app).await?.into_iter();
    let found = volumes.find(|known| known.id == volume);
    found.map(Json).ok_or_else(|| Error::missing("volume", volume))
}

/// Of a volume that several hosts have, the one that is meant.
#[derive(Debug, Deserialize)]
pub(crate) struct Where {
    host: Option<String>,
}

pub(crate) async fn delete(
    State(controller): State<Controller>,
    Path((app, volume)): Path<(String, String)>,
    Query(Where { host }): Query<Where>,
) -> Answer<Volume> {
    Ok(Json(volumes::remove(&controller, &app, &volume, host.as_deref()).await?))
}

/// Of an app that is no more.
pub(crate) async fn delete_left(
    State(controller): State<Controller>,
    Path(volume): Path<String>,
    Query(Where { host }): Query<Where>,
) -> Answer<Volume> {
    Ok(Json(volumes::remove_left(&controller, &volume, host.as_deref()).await?))
}
