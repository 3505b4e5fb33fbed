//! `/apps`.

use api::controller::{App, AppChange, Collected, META_SYSTEM_APP, NewApp};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::Query;

use super::{
    Answer, done,
    form::Formed,
    page::{self, Paging},
    routes,
};
use crate::{
    deletions,
    domain::{app, release},
    error::{Error, Result},
    retention,
    server::Controller,
    store::{self, Tx},
};

pub(crate) async fn list(
    State(controller): State<Controller>,
    Query(paging): Query<Paging>,
) -> Answer<Vec<App>> {
    let page = paging.page(page::MOST)?;
    Ok(Json(store::apps::list(&controller.db.client().await?, page).await?))
}

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path(app): Path<String>,
) -> Answer<App> {
    Ok(Json(store::apps::find(&controller.db.client().await?, &app).await?))
}

/// Makes an app, with its default route unless it is a part of Flynn.
pub(crate) async fn create(
    State(controller): State<Controller>,
    Formed(new): Formed<NewApp>,
) -> Answer<App> {
    let name = new
        .name
        .clone()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| app::name_of(rand::random()));
    app::check_name(&name)?;
    app::check_deploy_timeout(new.deploy_timeout)?;
    release::check_meta(new.meta.as_ref().unwrap_or(&store::Map::new()))?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = store::apps::insert(&mut tx, &new, &name).await?;
    tx.commit().await?;
    drop(client);
    match routes::ensure_default_route(&controller, &app).await {
        Ok(()) => Ok(Json(app)),
        Err(err) => {
            undo(&controller, &app).await?;
            Err(err)
        }
    }
}

/// An app whose route could not be made was not made.
async fn undo(controller: &Controller, app: &App) -> Result<()> {
    if let Err(err) = routes::delete_all(controller, app).await {
        // Whoever wants its place next removes it.
        tracing::warn!(
            error = &err as &dyn std::error::Error,
            "a route of {} may be left",
            app.name
        );
    }
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    store::apps::delete(&mut tx, app).await?;
    tx.commit().await
}

/// Changes what the body names.
pub(crate) async fn update(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Formed(change): Formed<AppChange>,
) -> Answer<App> {
    change_app(&controller, &app, &change, false).await
}

/// Replaces the meta, and changes nothing else.
pub(crate) async fn set_meta(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Formed(change): Formed<AppChange>,
) -> Answer<App> {
    let meta = Some(change.meta.unwrap_or_default());
    change_app(&controller, &app, &AppChange { meta, ..AppChange::default() }, true).await
}

async fn change_app(
    controller: &Controller,
    app: &str,
    change: &AppChange,
    whole: bool,
) -> Answer<App> {
    app::check_deploy_timeout(change.deploy_timeout)?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = store::apps::lock(&tx, app).await?;
    check_identity(&app, change)?;
    let meta = match &change.meta {
        Some(meta) => app::changed_meta(&app.meta, meta, whole)?,
        None => app.meta,
    };
    release::check_meta(&meta)?;
    let app = store::apps::update(&mut tx, app.id, &meta, change).await?;
    tx.commit().await?;
    Ok(Json(app))
}

/// An original client sends the whole app back: what cannot be changed must be as it is.
fn check_identity(app: &App, change: &AppChange) -> Result<()> {
    if change.id.is_some_and(|id| id != app.id) {
        return Err(Error::invalid("id", "cannot be changed"));
    }
    if change.name.as_ref().is_some_and(|name| *name != app.name) {
        return Err(Error::invalid("name", "cannot be changed: create another app instead"));
    }
    if change.release.is_some() && change.release != app.release {
        let message = format!("cannot be set: deploy it instead (POST /apps/{}/deploy)", app.name);
        return Err(Error::invalid("release", message));
    }
    Ok(())
}

/// Asks for the deletion of an app, which is the daemon's own work from then on, and waits for its end. A client that
/// goes, or asks again, changes nothing of it.
pub(crate) async fn delete(
    State(controller): State<Controller>,
    Path(app): Path<String>,
) -> Answer<()> {
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = store::apps::lock(&tx, &app).await?;
    if app.meta.get(META_SYSTEM_APP).is_some_and(|system| system == "true") {
        return Err(Error::Conflict(format!(
            "{} is a part of Flynn and cannot be deleted",
            app.name
        )));
    }
    store::apps::ask_deletion(&mut tx, &app).await?;
    tx.commit().await?;
    drop(client);
    deletions::wait(&controller, &app).await?;
    done()
}

/// Deletes what is no longer kept of an app, and what in shelf nothing needs, now. It may take minutes: it goes on without
/// who asked.
pub(crate) async fn collect(
    State(controller): State<Controller>,
    Path(app): Path<String>,
) -> Answer<Collected> {
    let app = store::apps::find(&controller.db.client().await?, &app).await?;
    let own = controller.clone();
    let done = controller.carry_out(async move { retention::collect(&own, Some(app.id)).await });
    Ok(Json(done.await?))
}
