//! `/deployments`.

use api::controller::{Deployment, NewDeployment};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::Body;

use super::{Answer, id, releases::of_this_app};
use crate::{
    server::Controller,
    store::{self, Tx},
};

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path(deployment): Path<String>,
) -> Answer<Deployment> {
    let deployment = id("deployment", &deployment)?;
    Ok(Json(store::deployments::find(&controller.db.client().await?, deployment).await?))
}

pub(crate) async fn of_app(
    State(controller): State<Controller>,
    Path(app): Path<String>,
) -> Answer<Vec<Deployment>> {
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    Ok(Json(store::deployments::of_app(&client, app.id).await?))
}

/// Queues a deployment; the worker hears of it by its event.
pub(crate) async fn deploy(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Body(new): Body<NewDeployment>,
) -> Answer<Deployment> {
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = store::apps::lock(&tx, &app).await?;
    of_this_app(&tx, app.id, new.id).await?;
    let deployment = store::deployments::insert(&mut tx, &app, &new).await?;
    tx.commit().await?;
    Ok(Json(deployment))
}
