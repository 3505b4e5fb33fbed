//! `/releases`.

use api::{
    controller::{NewRelease, Release},
    id::{ArtifactId, ReleaseId},
};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::{Body, Query};
use serde::Deserialize;

use super::{
    Answer, done,
    form::Formed,
    id,
    page::{self, Paging},
};
use crate::{
    domain::release,
    error::{Error, Result},
    server::Controller,
    store::{self, Tx},
};

pub(crate) async fn list(
    State(controller): State<Controller>,
    Query(paging): Query<Paging>,
) -> Answer<Vec<Release>> {
    let page = paging.page(page::HISTORY)?;
    let client = controller.db.client().await?;
    Ok(Json(store::releases::list(&client, None, page, paging.env).await?))
}

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path(release): Path<String>,
) -> Answer<Release> {
    let release = id("release", &release)?;
    Ok(Json(store::releases::find(&controller.db.client().await?, release).await?))
}

pub(crate) async fn of_app(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Query(paging): Query<Paging>,
) -> Answer<Vec<Release>> {
    let page = paging.page(page::HISTORY)?;
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    Ok(Json(store::releases::list(&client, Some(app.id), page, paging.env).await?))
}

/// Deletes a release that nothing runs.
pub(crate) async fn delete(
    State(controller): State<Controller>,
    Path((app, release)): Path<(String, String)>,
) -> Answer<()> {
    let release = id("release", &release)?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = store::apps::lock(&tx, &app).await?;
    let release = store::releases::find(&*tx, release).await?;
    if release.app_id.is_some_and(|owner| owner != app.id) {
        return Err(Error::missing("release", release.id));
    }
    store::releases::delete(&mut tx, app.id, &release).await?;
    tx.commit().await?;
    done()
}

pub(crate) async fn current(
    State(controller): State<Controller>,
    Path(app): Path<String>,
) -> Answer<Release> {
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    let missing = || Error::missing("release yet of", &app.name);
    Ok(Json(store::releases::find(&client, app.release.ok_or_else(missing)?).await?))
}

#[derive(Debug, Deserialize)]
pub(crate) struct SetRelease {
    id: ReleaseId,
}

/// Records what bootstrap has started; any other change of release is a deployment.
pub(crate) async fn set_current(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Body(SetRelease { id }): Body<SetRelease>,
) -> Answer<Release> {
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = store::apps::lock(&tx, &app).await?;
    let release = of_this_app(&tx, app.id, id).await?;
    match app.release {
        Some(current) if current == id => {}
        Some(_) => {
            return Err(Error::Conflict(format!(
                "{} has a release already: deploy the other one (POST /apps/{}/deploy)",
                app.name, app.name
            )));
        }
        None => store::apps::set_release(&mut tx, app.id, id).await?,
    }
    tx.commit().await?;
    Ok(Json(release))
}

/// A release that this app may run, and now is the one to answer for its services.
pub(super) async fn of_this_app(
    tx: &Tx<'_>,
    app: api::id::AppId,
    id: ReleaseId,
) -> Result<Release> {
    let found = store::releases::find_opt(&**tx, id).await?;
    let release =
        found.ok_or_else(|| Error::invalid("id", format!("could not find a release {id}")))?;
    if release.app_id.is_some_and(|owner| owner != app) {
        return Err(Error::invalid("id", format!("{id} is a release of another app")));
    }
    store::apps::check_stays(&**tx, app).await?;
    // A release may have been made before its app: here is where it is known whose its services are.
    let services = store::services::of(release.processes.values());
    store::services::claim(tx, app, "id", &services).await?;
    Ok(release)
}

pub(crate) async fn create(
    State(controller): State<Controller>,
    Formed(new): Formed<NewRelease>,
) -> Answer<Release> {
    release::check(&new)?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    if let Some(app) = new.app_id
        && let Err(Error::Missing { .. }) = store::apps::find(&*tx, &app.to_string()).await
    {
        return Err(Error::invalid("app_id", format!("names no app: {app}")));
    }
    let found = store::artifacts::in_order(&*tx, &new.artifacts).await?;
    let known = |id: &ArtifactId| found.iter().any(|artifact| artifact.id == *id);
    if let Some(unknown) = new.artifacts.iter().find(|id| !known(id)) {
        return Err(Error::invalid("artifacts", format!("names no artifact: {unknown}")));
    }
    let release = store::releases::insert(&mut tx, &new).await?;
    tx.commit().await?;
    Ok(Json(release))
}
