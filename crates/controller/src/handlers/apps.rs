//! `/apps`.

use api::controller::{App, META_SYSTEM_APP, NewApp};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::Body;
use tokio::time::{Duration, Instant, timeout_at};

use super::{Answer, done, routes};
use crate::{
    domain::{app, release},
    error::{Error, Result},
    server::Controller,
    store::{self, Tx},
};

/// Longest wait for an app's processes to end when it is deleted.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked at even if nothing is heard.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

pub(crate) async fn list(State(controller): State<Controller>) -> Answer<Vec<App>> {
    Ok(Json(store::apps::list(&controller.db.client().await?).await?))
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
    Body(new): Body<NewApp>,
) -> Answer<App> {
    let name = new.name.clone().unwrap_or_else(|| app::name_of(rand::random()));
    app::check_name(&name)?;
    app::check_deploy_timeout(new.deploy_timeout)?;
    release::check_env("meta", new.meta.as_ref().unwrap_or(&store::Map::new()))?;
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

pub(crate) async fn update(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Body(change): Body<NewApp>,
) -> Answer<App> {
    app::check_deploy_timeout(change.deploy_timeout)?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = store::apps::lock(&tx, &app).await?;
    if change.name.as_ref().is_some_and(|name| *name != app.name) {
        return Err(Error::invalid("name", "cannot be changed: create another app instead"));
    }
    let app = store::apps::update(&mut tx, app.id, &change).await?;
    tx.commit().await?;
    Ok(Json(app))
}

/// Deletes an app: no new process, no route, then, when the last process has ended, the name is free. Interrupted, it can
/// be done again.
pub(crate) async fn delete(
    State(controller): State<Controller>,
    Path(app): Path<String>,
) -> Answer<()> {
    let app = store::apps::find(&controller.db.client().await?, &app).await?;
    if app.meta.get(META_SYSTEM_APP).is_some_and(|system| system == "true") {
        return Err(Error::Conflict(format!(
            "{} is a part of Flynn and cannot be deleted",
            app.name
        )));
    }
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    stop(&mut tx, &app).await?;
    tx.commit().await?;
    drop(client);
    routes::delete_all(&controller, &app).await?;
    stop_one_offs(&controller, &app).await?;
    wait_for_the_end(&controller, &app).await?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    stop(&mut tx, &app).await?;
    store::apps::delete(&mut tx, &app).await?;
    tx.commit().await?;
    done()
}

/// What no formation stands for is stopped by its host. One that cannot be asked is gone, and its jobs with it.
async fn stop_one_offs(controller: &Controller, app: &App) -> Result<()> {
    let client = controller.db.client().await?;
    for job in store::jobs::one_off(&client, app.id).await? {
        let host = job.host_id.as_deref().map(|host| controller.neighbours.host(host));
        if let Some(Ok(host)) = host
            && let Err(err) = host.stop_job(job.uuid).await
            && !err.is_not_found()
        {
            return Err(Error::neighbour("stopping the app's jobs")(err));
        }
    }
    Ok(())
}

async fn wait_for_the_end(controller: &Controller, app: &App) -> Result<()> {
    let mut nudges = controller.events.nudges();
    let deadline = Instant::now() + STOP_TIMEOUT;
    loop {
        nudges.mark_unchanged();
        let running = {
            let client = controller.db.client().await?;
            store::jobs::unfinished(&client, app.id).await?
        };
        if running == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::Away(format!(
                "{running} processes of {} have not ended yet; delete it again in a moment",
                app.name
            )));
        }
        let _ = timeout_at(deadline.min(Instant::now() + LOOK_AGAIN), nudges.changed()).await;
    }
}

/// Nothing of the app shall run, and nothing shall be deployed.
async fn stop(tx: &mut Tx<'_>, app: &App) -> Result<()> {
    store::apps::lock(tx, &app.id.to_string()).await?;
    store::deployments::fail_all(tx, app.id, "the app was deleted").await?;
    for formation in store::formations::of_app(&**tx, app.id).await? {
        store::formations::delete(tx, app.id, formation.release).await?;
    }
    Ok(())
}
