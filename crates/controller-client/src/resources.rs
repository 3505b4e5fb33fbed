//! Keys, providers, resources, routes.

use std::time::Duration;

use api::{
    controller::{Collected, Key, NewKey, NewProvider, NewResource, Provider, Resource},
    id::{AppId, ResourceId},
    route::{NewRoute, Route},
};
use api_client::Error;

use crate::{Controller, escape};

/// The controller gives a provider a minute to make a resource, and then says that it took too long.
const PROVISION_TIMEOUT: Duration = Duration::from_secs(75);

impl Controller {
    /// The keys that may push, newest first.
    pub async fn keys(&self) -> Result<Vec<Key>, Error> {
        self.whole("/keys", |key: &Key| key.fingerprint.clone()).await
    }

    /// The key with a fingerprint (with or without colons).
    pub async fn key(&self, fingerprint: &str) -> Result<Key, Error> {
        self.client.get(&key_path(fingerprint)).await
    }

    /// Lets a key push: one line of an `authorized_keys` file.
    pub async fn add_key(&self, line: &str) -> Result<Key, Error> {
        self.add_key_for(line, &[]).await
    }

    /// Lets a key push to these apps alone, by name or id; to all if there are none.
    pub async fn add_key_for(&self, line: &str, apps: &[String]) -> Result<Key, Error> {
        self.client.post("/keys", &NewKey { key: line.into(), apps: apps.to_vec() }).await
    }

    /// Lets a key push no longer.
    pub async fn remove_key(&self, fingerprint: &str) -> Result<(), Error> {
        self.client.delete::<serde_json::Value>(&key_path(fingerprint)).await.map(drop)
    }

    /// The resource providers, newest first.
    pub async fn providers(&self) -> Result<Vec<Provider>, Error> {
        self.whole("/providers", |provider: &Provider| provider.id.to_string()).await
    }

    /// A provider by id or name.
    pub async fn provider(&self, provider: &str) -> Result<Provider, Error> {
        self.client.get(&format!("/providers/{}", escape(provider))).await
    }

    /// Makes a provider known.
    pub async fn create_provider(&self, provider: &NewProvider) -> Result<Provider, Error> {
        self.client.post("/providers", provider).await
    }

    /// Forgets a provider of which no resource is left.
    pub async fn remove_provider(&self, provider: &str) -> Result<Provider, Error> {
        self.client.delete(&format!("/providers/{}", escape(provider))).await
    }

    /// Forgets a provider of which no resource is in use. What of it was removed and not destroyed yet is forgotten, too.
    pub async fn force_provider_removal(&self, provider: &str) -> Result<Provider, Error> {
        self.client.delete(&format!("/providers/{}?force=true", escape(provider))).await
    }

    /// Has a provider make a resource for apps.
    pub async fn provision(
        &self,
        provider: &str,
        resource: &NewResource,
    ) -> Result<Resource, Error> {
        let client = self.client.with_timeout(PROVISION_TIMEOUT);
        client.post(&format!("/providers/{}/resources", escape(provider)), resource).await
    }

    /// Records a resource that exists already. The same again changes nothing.
    pub async fn put_resource(
        &self,
        provider: &str,
        id: ResourceId,
        resource: &NewResource,
    ) -> Result<Resource, Error> {
        let path = format!("/providers/{}/resources/{id}", escape(provider));
        self.client.put(&path, resource).await
    }

    /// The resources a provider made, newest first.
    pub async fn provider_resources(&self, provider: &str) -> Result<Vec<Resource>, Error> {
        self.whole(&format!("/providers/{}/resources", escape(provider)), |resource: &Resource| {
            resource.id.to_string()
        })
        .await
    }

    /// The resources an app uses, newest first.
    pub async fn resources(&self, app: &str) -> Result<Vec<Resource>, Error> {
        self.whole(&format!("/apps/{}/resources", escape(app)), |resource: &Resource| {
            resource.id.to_string()
        })
        .await
    }

    /// Deletes what is no longer kept of an app, and what in shelf nothing needs.
    pub async fn collect(&self, app: &str) -> Result<Collected, Error> {
        self.client.post(&format!("/apps/{}/gc", escape(app)), &()).await
    }

    /// All resources, newest first, without their environments; with `removed` also those that can be restored.
    pub async fn all_resources(&self, removed: bool) -> Result<Vec<Resource>, Error> {
        self.whole(&format!("/resources?removed={removed}"), |resource: &Resource| {
            resource.id.to_string()
        })
        .await
    }

    /// A resource, also one that was removed and can be restored.
    pub async fn resource(&self, provider: &str, id: ResourceId) -> Result<Resource, Error> {
        self.client.get(&resource_path(provider, id)).await
    }

    /// Removes a resource; until its `purge_at` it can be restored.
    pub async fn remove_resource(&self, provider: &str, id: ResourceId) -> Result<Resource, Error> {
        self.client.delete(&resource_path(provider, id)).await
    }

    /// The same, unless another app than this one uses it: then it is a conflict.
    pub async fn remove_resource_of(
        &self,
        provider: &str,
        id: ResourceId,
        app: AppId,
    ) -> Result<Resource, Error> {
        self.client.delete(&format!("{}?only_app={app}", resource_path(provider, id))).await
    }

    /// Brings a removed resource back.
    pub async fn restore_resource(
        &self,
        provider: &str,
        id: ResourceId,
    ) -> Result<Resource, Error> {
        self.client.post(&format!("{}/restore", resource_path(provider, id)), &()).await
    }

    /// Lets an app use a resource.
    pub async fn add_resource_app(
        &self,
        provider: &str,
        id: ResourceId,
        app: &str,
    ) -> Result<Resource, Error> {
        let path = format!("{}/apps/{}", resource_path(provider, id), escape(app));
        self.client.put(&path, &()).await
    }

    /// Has an app use a resource no longer.
    pub async fn remove_resource_app(
        &self,
        provider: &str,
        id: ResourceId,
        app: &str,
    ) -> Result<Resource, Error> {
        let path = format!("{}/apps/{}", resource_path(provider, id), escape(app));
        self.client.delete(&path).await
    }

    /// The routes to an app.
    pub async fn routes(&self, app: &str) -> Result<Vec<Route>, Error> {
        self.whole(&format!("/apps/{}/routes", escape(app)), |route: &Route| route.id.clone()).await
    }

    /// Adds a route to an app, or changes the one it has for that domain or port. Answers when every router serves it.
    pub async fn create_route(&self, app: &str, route: &NewRoute) -> Result<Route, Error> {
        self.client.post(&format!("/apps/{}/routes", escape(app)), route).await
    }

    /// A route of an app by its id, `http/<hex>` or `tcp/<hex>`.
    pub async fn route(&self, app: &str, id: &str) -> Result<Route, Error> {
        self.client.get(&route_path(app, id)).await
    }

    /// Changes a route; a certificate that is left out stays. Answers when every router serves it.
    pub async fn update_route(
        &self,
        app: &str,
        id: &str,
        route: &NewRoute,
    ) -> Result<Route, Error> {
        self.client.put(&route_path(app, id), route).await
    }

    /// Removes a route. Answers when no router serves it.
    pub async fn delete_route(&self, app: &str, id: &str) -> Result<(), Error> {
        self.client.delete::<serde_json::Value>(&route_path(app, id)).await.map(drop)
    }
}

fn key_path(fingerprint: &str) -> String {
    format!("/keys/{}", escape(&fingerprint.replace(':', "")))
}

fn route_path(app: &str, id: &str) -> String {
    let (kind, hex) = id.split_once('/').unwrap_or((id, ""));
    format!("/apps/{}/routes/{}/{}", escape(app), escape(kind), escape(hex))
}

fn resource_path(provider: &str, id: ResourceId) -> String {
    format!("/providers/{}/resources/{id}", escape(provider))
}
