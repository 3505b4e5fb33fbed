//! `/deployments`.

use api::controller::{Deployment, DeploymentStatus, NewDeployment};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::{Body, Query};

use super::{
    Answer, id,
    page::{self, Paging},
    releases::of_this_app,
};
use crate::{
    error::Error,
    server::Controller,
    store::{self, Tx},
    wishes,
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
    Query(paging): Query<Paging>,
) -> Answer<Vec<Deployment>> {
    let page = paging.page(page::HISTORY)?;
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    Ok(Json(store::deployments::of_app(&client, app.id, page).await?))
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
    let release = of_this_app(&tx, app.id, new.id).await?;
    let deployment = wishes::deploy(&mut tx, &app, &new, &release).await?;
    tx.commit().await?;
    Ok(Json(deployment))
}

/// Takes a deployment back: one that waits never begins, one that runs goes back. Answers with it as it is then.
pub(crate) async fn cancel(
    State(controller): State<Controller>,
    Path(deployment): Path<String>,
) -> Answer<Deployment> {
    let deployment = id("deployment", &deployment)?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = store::deployments::find(&*tx, deployment).await?.app;
    let app = store::apps::lock(&tx, &app.to_string()).await?;
    let now = store::deployments::find(&*tx, deployment).await?;
    match now.status {
        DeploymentStatus::Pending => {
            let why = "it was cancelled before it began";
            store::deployments::finish(&mut tx, deployment, Some(why)).await?;
        }
        DeploymentStatus::Running => {
            let end = if app.release.is_some() {
                "the old release keeps serving"
            } else {
                "nothing was changed"
            };
            let why = format!("it was cancelled; {end}");
            store::deployments::go_back(&mut tx, deployment, &why, None).await?;
        }
        DeploymentStatus::Complete | DeploymentStatus::Failed => {
            return Err(Error::Conflict(format!(
                "deployment {deployment} is over: `flynn rollback` deploys an earlier release"
            )));
        }
    }
    let deployment = store::deployments::find(&*tx, deployment).await?;
    tx.commit().await?;
    Ok(Json(deployment))
}
