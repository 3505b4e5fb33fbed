//! Providers: who makes resources, and destroys them. `docs/providers.md` is their protocol.

use std::time::Duration;

use api::{
    controller::{IDEMPOTENCY_KEY, Provider, Provisioned},
    id::ResourceId,
};
use api_client::Client;

use super::Neighbours;
use crate::error::{Error, Result};

/// Longest time a provider may take to make or destroy a resource.
const PROVISION_TIMEOUT: Duration = Duration::from_secs(60);

impl Neighbours {
    /// Has a provider make a resource. Asked again with the same id, it answers the same one.
    pub(crate) async fn provision(
        &self,
        provider: &Provider,
        key: Option<String>,
        id: ResourceId,
        config: &serde_json::Value,
    ) -> Result<Provisioned> {
        let (client, path) = self.provider(provider, key).await?;
        let empty = serde_json::json!({});
        let config = if config.is_null() { &empty } else { config };
        let client = client.with_header(IDEMPOTENCY_KEY, &id.to_string());
        let made: Provisioned = client
            .post(&path, config)
            .await
            .map_err(Error::neighbour("asking the provider for a resource"))?;
        if made.id.is_empty() {
            return Err(Error::Conflict(format!(
                "{} made a resource without an id; its answer must be {{\"id\", \"env\"}}",
                provider.name
            )));
        }
        Ok(made)
    }

    /// Has a provider destroy a resource. That there is none is success.
    pub(crate) async fn deprovision(
        &self,
        provider: &Provider,
        key: Option<String>,
        external_id: &str,
    ) -> Result<()> {
        let (client, path) = self.provider(provider, key).await?;
        let id: String = url::form_urlencoded::byte_serialize(external_id.as_bytes()).collect();
        match client.delete::<serde_json::Value>(&format!("{path}?id={id}")).await {
            Ok(_) => Ok(()),
            Err(err) if err.is_not_found() => Ok(()),
            Err(err) => Err(Error::neighbour("having the provider destroy a resource")(err)),
        }
    }

    /// A client of a provider, and the path there.
    async fn provider(&self, provider: &Provider, key: Option<String>) -> Result<(Client, String)> {
        let url = url::Url::parse(provider.url.strip_prefix("discoverd+").unwrap_or(&provider.url))
            .map_err(|_| Error::invalid("url", "of the provider is not a URL"))?;
        let path = url.path().to_owned();
        let (base, key) = if provider.url.starts_with("discoverd+") {
            let host = url.host_str().unwrap_or_default();
            let instances = self
                .discoverd
                .instances(host)
                .await
                .map_err(Error::neighbour("asking discoverd for the provider"))?;
            let pick = usize::try_from(rand::random::<u32>()).unwrap_or_default();
            let instance = instances.get(pick % instances.len().max(1)).ok_or_else(|| {
                Error::Away(format!("the provider {} is not running at the moment", provider.name))
            })?;
            let ours = self.postgres_api_key.clone().filter(|_| host == "postgres-api");
            (format!("http://{}", instance.addr), key.or(ours))
        } else {
            let own = url.password().map(str::to_owned);
            (url.origin().ascii_serialization(), key.or(own))
        };
        let client = Client::with_http(self.http.clone(), base, key);
        Ok((client.with_timeout(PROVISION_TIMEOUT), path))
    }
}
