//! What providers made: `/resources` and `/providers/:provider/resources`.

use api::{
    controller::{META_SYSTEM_APP, NewResource, Provider, Resource},
    id::{AppId, ResourceId},
};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::{Body, Query};
use serde::Deserialize;

use super::{Answer, id, page};
use crate::{
    error::{Error, Result},
    neighbours::{Effect, bad_answer},
    server::Controller,
    store::{self, Tx, resources::Origin},
};

/// Which resources.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Which {
    /// Also those that were removed and can be restored.
    #[serde(deserialize_with = "page::flag")]
    removed: bool,
}

pub(crate) async fn list(
    State(controller): State<Controller>,
    Query(paging): Query<page::Paging>,
    Query(which): Query<Which>,
) -> Answer<Vec<Resource>> {
    let page = paging.page(page::MOST)?;
    let client = controller.db.client().await?;
    Ok(Json(store::resources::list(&client, page, which.removed).await?))
}

pub(crate) async fn of_provider(
    State(controller): State<Controller>,
    Path(provider): Path<String>,
    Query(paging): Query<page::Paging>,
) -> Answer<Vec<Resource>> {
    let page = paging.page(page::MOST)?;
    let client = controller.db.client().await?;
    let provider = store::providers::find(&client, &provider).await?;
    Ok(Json(store::resources::of_provider(&client, provider.id, page).await?))
}

pub(crate) async fn of_app(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Query(paging): Query<page::Paging>,
) -> Answer<Vec<Resource>> {
    let page = paging.page(page::MOST)?;
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    Ok(Json(store::resources::of_app(&client, app.id, page).await?))
}

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path((provider, resource)): Path<(String, String)>,
) -> Answer<Resource> {
    Ok(Json(find(&controller.db.client().await?, &provider, &resource).await?))
}

async fn find(client: &impl pg::GenericClient, provider: &str, resource: &str) -> Result<Resource> {
    let provider = store::providers::find(client, provider).await?;
    let found = store::resources::find(client, id("resource", resource)?).await?;
    if found.provider != provider.id {
        return Err(Error::missing("resource", resource));
    }
    Ok(found)
}

/// Has the provider make a resource, and records it. That is the daemon's work: it goes on by itself if the client goes;
/// should the controller go, what was made is destroyed.
pub(crate) async fn provision(
    State(controller): State<Controller>,
    Path(provider): Path<String>,
    Body(new): Body<NewResource>,
) -> Answer<Resource> {
    let (apps, provider) = {
        let client = controller.db.client().await?;
        (apps_of(&client, &new).await?, store::providers::find(&client, &provider).await?)
    };
    if new.external_id.as_ref().is_some_and(|id| !id.is_empty()) {
        let id = ResourceId::random();
        return record(&controller, id, &provider, &new, &apps, Origin::Hearsay).await.map(Json);
    }
    let making = controller.clone();
    controller.finish(async move { make(&making, &provider, new, &apps).await }).await.map(Json)
}

/// Asks the provider, and records what it made. What it may have made for an answer that cannot be recorded is destroyed
/// later (`purges.rs`).
async fn make(
    controller: &Controller,
    provider: &Provider,
    mut new: NewResource,
    apps: &[AppId],
) -> Result<Resource> {
    let id = ResourceId::random();
    let key = {
        let client = controller.db.client().await?;
        let key = store::providers::key(&client, provider.id).await?;
        store::provisionings::begin(&client, id, provider.id, &new.config).await?;
        key
    };
    let made = match controller.neighbours.provision(provider, key, id, &new.config).await {
        Err(err) if err.effect() != Effect::Unknown => {
            store::provisionings::end(&controller.db.client().await?, id).await?;
            return Err(err);
        }
        Err(err) => {
            if err.is_answered() {
                store::provisionings::answered(&controller.db.client().await?, id).await?;
            }
            return Err(err);
        }
        Ok(made) => made,
    };
    let recorded = match made.env {
        Ok(env) => {
            (new.external_id, new.env) = (Some(made.id), env);
            record(controller, id, provider, &new, apps, Origin::Provider).await
        }
        Err(wrong) => Err(bad_answer(provider, &wrong)),
    };
    match &recorded {
        Ok(_) => {}
        // The provider answered what it had made before: it is somebody's.
        Err(Error::Exists(_)) => {
            store::provisionings::end(&controller.db.client().await?, id).await?;
        }
        Err(_) => store::provisionings::hasten(&controller.db.client().await?, id).await?,
    }
    recorded
}

/// Records a resource that exists already.
pub(crate) async fn put(
    State(controller): State<Controller>,
    Path((provider, resource)): Path<(String, String)>,
    Body(new): Body<NewResource>,
) -> Answer<Resource> {
    if new.external_id.as_ref().is_none_or(String::is_empty) {
        return Err(Error::invalid("external_id", "must not be blank"));
    }
    let resource = id("resource", &resource)?;
    let client = controller.db.client().await?;
    let apps = apps_of(&client, &new).await?;
    let provider = store::providers::find(&client, &provider).await?;
    drop(client);
    record(&controller, resource, &provider, &new, &apps, Origin::Hearsay).await.map(Json)
}

async fn apps_of(client: &pg::Client, new: &NewResource) -> Result<Vec<AppId>> {
    let mut apps = Vec::new();
    for app in &new.apps {
        match store::apps::find(client, app).await {
            Ok(found) => apps.push(found.id),
            Err(Error::Missing { .. }) => {
                return Err(Error::invalid("apps", format!("names no app: {app}")));
            }
            Err(err) => return Err(err),
        }
    }
    Ok(apps)
}

async fn record(
    controller: &Controller,
    id: ResourceId,
    provider: &Provider,
    new: &NewResource,
    apps: &[AppId],
    origin: Origin,
) -> Result<Resource> {
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let mut apps = apps.to_vec();
    apps.sort_unstable();
    for app in &apps {
        store::apps::lock(&tx, &app.to_string()).await?;
    }
    let resource = store::resources::put(&mut tx, id, provider.id, new, &apps, origin).await?;
    tx.commit().await?;
    Ok(resource)
}

/// A resource, locked: of two changes at once the second sees what the first did.
async fn lock(tx: &Tx<'_>, provider: &str, resource: &str) -> Result<Resource> {
    store::resources::lock(tx, id("resource", resource)?).await?;
    find(&**tx, provider, resource).await
}

/// What a part of Flynn uses is not removed.
async fn check_unneeded(tx: &Tx<'_>, resource: &Resource) -> Result<()> {
    for app in &resource.apps {
        let app = store::apps::find(&**tx, &app.to_string()).await?;
        if app.meta.get(META_SYSTEM_APP).is_some_and(|system| system == "true") {
            return Err(Error::Conflict(format!(
                "{} is a part of Flynn and needs this resource: it cannot be removed",
                app.name
            )));
        }
    }
    Ok(())
}

/// What is to be true of a resource that is removed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Removal {
    /// No other app than this one, an id, uses it.
    only_app: Option<AppId>,
}

/// Removes a resource: it can be restored for some time, and is then destroyed.
pub(crate) async fn remove(
    State(controller): State<Controller>,
    Path((provider, resource)): Path<(String, String)>,
    Query(removal): Query<Removal>,
) -> Answer<Resource> {
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let found = lock(&tx, &provider, &resource).await?;
    check_unneeded(&tx, &found).await?;
    if let Some(own) = removal.only_app
        && found.apps.iter().any(|app| *app != own)
    {
        return Err(Error::Conflict(format!(
            "other apps use {} as well: it is not removed",
            found.id
        )));
    }
    let removed = store::resources::remove(&mut tx, found.id, controller.resource_grace).await?;
    tx.commit().await?;
    Ok(Json(removed))
}

/// Brings a removed resource back.
pub(crate) async fn restore(
    State(controller): State<Controller>,
    Path((provider, resource)): Path<(String, String)>,
) -> Answer<Resource> {
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let found = lock(&tx, &provider, &resource).await?;
    let restored = store::resources::restore(&mut tx, found.id).await?;
    tx.commit().await?;
    Ok(Json(restored))
}

/// Lets one more app use a resource.
pub(crate) async fn add_app(
    State(controller): State<Controller>,
    Path((provider, resource, app)): Path<(String, String, String)>,
) -> Answer<Resource> {
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    // First, as the deletion of an app does.
    let app = store::apps::lock(&tx, &app).await?;
    let found = lock(&tx, &provider, &resource).await?;
    if found.deleted_at.is_some() {
        let message = format!("{} was removed: restore it first (POST …/restore)", found.id);
        return Err(Error::Conflict(message));
    }
    let changed = store::resources::add_app(&mut tx, found.id, app.id).await?;
    tx.commit().await?;
    Ok(Json(changed))
}

/// Has an app use a resource no longer.
pub(crate) async fn remove_app(
    State(controller): State<Controller>,
    Path((provider, resource, app)): Path<(String, String, String)>,
) -> Answer<Resource> {
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = store::apps::lock(&tx, &app).await?;
    let found = lock(&tx, &provider, &resource).await?;
    let changed = store::resources::remove_app(&mut tx, found.id, app.id).await?;
    tx.commit().await?;
    Ok(Json(changed))
}
