//! `/providers` and what they provide.

use api::{
    controller::{NewProvider, NewResource, Provider, Resource},
    id::ResourceId,
};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::Body;

use super::{Answer, id};
use crate::{
    error::{Error, Result},
    server::Controller,
    store::{self, Tx},
};

pub(crate) async fn list(State(controller): State<Controller>) -> Answer<Vec<Provider>> {
    Ok(Json(store::providers::list(&controller.db.client().await?).await?))
}

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path(provider): Path<String>,
) -> Answer<Provider> {
    Ok(Json(store::providers::find(&controller.db.client().await?, &provider).await?))
}

pub(crate) async fn create(
    State(controller): State<Controller>,
    Body(new): Body<NewProvider>,
) -> Answer<Provider> {
    if new.name.trim().is_empty() {
        return Err(Error::invalid("name", "must not be blank"));
    }
    let url = new.url.strip_prefix("discoverd+").unwrap_or(&new.url);
    if !url.starts_with("http://") && !url.starts_with("https://") {
        let message = "must be discoverd+http://<service>/<path>, or an http URL";
        return Err(Error::invalid("url", message));
    }
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let provider = store::providers::insert(&mut tx, &new).await?;
    tx.commit().await?;
    Ok(Json(provider))
}

pub(crate) async fn resources(
    State(controller): State<Controller>,
    Path(provider): Path<String>,
) -> Answer<Vec<Resource>> {
    let client = controller.db.client().await?;
    let provider = store::providers::find(&client, &provider).await?;
    Ok(Json(store::providers::resources_of(&client, provider.id).await?))
}

pub(crate) async fn resources_of_app(
    State(controller): State<Controller>,
    Path(app): Path<String>,
) -> Answer<Vec<Resource>> {
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    Ok(Json(store::providers::resources_of_app(&client, app.id).await?))
}

pub(crate) async fn resource(
    State(controller): State<Controller>,
    Path((provider, resource)): Path<(String, String)>,
) -> Answer<Resource> {
    let client = controller.db.client().await?;
    let provider = store::providers::find(&client, &provider).await?;
    let found = store::providers::find_resource(&client, id("resource", &resource)?).await?;
    if found.provider != provider.id {
        return Err(Error::missing("resource", resource));
    }
    Ok(Json(found))
}

/// Has the provider make a resource, and records it.
pub(crate) async fn provision(
    State(controller): State<Controller>,
    Path(provider): Path<String>,
    Body(mut new): Body<NewResource>,
) -> Answer<Resource> {
    let provider = {
        let client = controller.db.client().await?;
        check_apps(&client, &new).await?;
        store::providers::find(&client, &provider).await?
    };
    if new.external_id.is_none() {
        let made = controller.neighbours.provision(&provider, &new).await?;
        new.external_id = Some(made.id);
        new.env = made.env;
    }
    record(&controller, ResourceId::random(), &provider, &new).await
}

/// Records a resource that exists already.
pub(crate) async fn put_resource(
    State(controller): State<Controller>,
    Path((provider, resource)): Path<(String, String)>,
    Body(new): Body<NewResource>,
) -> Answer<Resource> {
    if new.external_id.as_ref().is_none_or(String::is_empty) {
        return Err(Error::invalid("external_id", "must not be blank"));
    }
    let resource = id("resource", &resource)?;
    let provider = {
        let client = controller.db.client().await?;
        check_apps(&client, &new).await?;
        store::providers::find(&client, &provider).await?
    };
    record(&controller, resource, &provider, &new).await
}

async fn check_apps(client: &pg::Client, new: &NewResource) -> Result<()> {
    for app in &new.apps {
        if let Err(Error::Missing { .. }) = store::apps::find(client, &app.to_string()).await {
            return Err(Error::invalid("apps", format!("names no app: {app}")));
        }
    }
    Ok(())
}

async fn record(
    controller: &Controller,
    id: ResourceId,
    provider: &Provider,
    new: &NewResource,
) -> Answer<Resource> {
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let resource = store::providers::put_resource(&mut tx, id, provider.id, new).await?;
    tx.commit().await?;
    Ok(Json(resource))
}
