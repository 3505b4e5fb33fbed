#![doc = include_str!("../README.md")]

mod follow;
mod heartbeat;
mod set;
mod watch;

use std::{collections::BTreeMap, time::Duration};

use api::discoverd::{Instance, Leader, META_HOST, Revision, ServiceConfig, ServiceMeta};
pub use api_client::Error;
use api_client::{Client, body};
use http::Method;
use serde_json::json;

pub use heartbeat::Registration;
pub use set::{ServiceSet, Services};
pub use watch::{AllWatch, ServiceWatch};

/// Longest wait for an answer: discoverd is on this host and answers from memory, or writes to etcd.
const TIMEOUT: Duration = Duration::from_secs(8);
/// Longest answer to a registration.
const REVISION_LEN_MAX: usize = 1 << 20;

/// A client of discoverd.
#[derive(Debug, Clone)]
pub struct Discoverd {
    client: Client,
}

impl Discoverd {
    /// A client of the discoverd at `url` (`http://127.0.0.1:1111`). Without a key it can only read. A key may also be
    /// given in the URL: `http://:<key>@127.0.0.1:1111`.
    pub fn new(url: &str, key: Option<String>) -> Self {
        let (base, in_url) = split_key(url);
        Self { client: Client::new(base, key.or(in_url)).with_timeout(TIMEOUT) }
    }

    /// Registers an instance that ends 10 s after the last call, so call again every 3 to 5 s, or use
    /// [`Discoverd::heartbeat`].
    pub async fn register(&self, service: &str, instance: &Instance) -> Result<Revision, Error> {
        self.client.put(&instance_path(service, &instance.id), instance).await
    }

    /// Registers an instance that ends with its withdrawal or with the host: for flynn-host, which watches the process
    /// itself. Registering the same again changes nothing.
    pub async fn register_for_host(
        &self,
        service: &str,
        instance: &Instance,
    ) -> Result<Revision, Error> {
        let path = instance_path(service, &instance.id);
        let put = self.client.send(Method::PUT, &path, |request| {
            request.timeout(TIMEOUT).header("flynn-lease", "host").json(instance)
        });
        let response = put.await?;
        let url = response.url().to_string();
        let bytes = body::read(response, REVISION_LEN_MAX).await?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Decode { url, source })
    }

    /// Withdraws an instance. That it is not registered is no error.
    pub async fn unregister(&self, service: &str, id: &str) -> Result<Revision, Error> {
        self.client.delete(&instance_path(service, id)).await
    }

    /// Registers an instance that needs heartbeats and gives them, until the value is withdrawn or dropped.
    pub async fn heartbeat(
        &self,
        service: &str,
        instance: Instance,
    ) -> Result<Registration, Error> {
        self.register(service, &instance).await?;
        Ok(Registration::begin(self.clone(), service.into(), instance))
    }

    /// Creates a service. `object_exists` if it was created before.
    pub async fn create_service(&self, service: &str, config: ServiceConfig) -> Result<(), Error> {
        let _: ServiceConfig = self.client.put(&format!("/services/{service}"), &config).await?;
        Ok(())
    }

    /// Removes a service with all its instances.
    pub async fn remove_service(&self, service: &str) -> Result<(), Error> {
        self.client.delete(&format!("/services/{service}")).await
    }

    /// The names of all services.
    pub async fn services(&self) -> Result<Vec<String>, Error> {
        self.client.get("/services").await
    }

    /// The instances of a service, oldest first. `object_not_found` if nothing is known of it.
    pub async fn instances(&self, service: &str) -> Result<Vec<Instance>, Error> {
        self.client.get(&format!("/services/{service}/instances")).await
    }

    /// The instances of all services, oldest first.
    pub async fn all_instances(&self) -> Result<BTreeMap<String, Vec<Instance>>, Error> {
        self.client.get("/instances").await
    }

    /// Everything that is registered for jobs of one host (meta [`META_HOST`]), with its service: what the host
    /// compares with the jobs it has when it starts.
    pub async fn instances_of_host(&self, host: &str) -> Result<Vec<(String, Instance)>, Error> {
        let path = format!("/instances?host={host}");
        let services: BTreeMap<String, Vec<Instance>> = self.client.get(&path).await?;
        let all = services.into_iter().flat_map(|(service, instances)| {
            instances.into_iter().map(move |instance| (service.clone(), instance))
        });
        // A discoverd of before there was this question answers with those of all hosts.
        Ok(all.filter(|(_, one)| one.meta.get(META_HOST).is_some_and(|id| id == host)).collect())
    }

    /// Who leads a service. `object_not_found` if nobody does at the moment.
    pub async fn leader(&self, service: &str) -> Result<Leader, Error> {
        self.client.get(&format!("/services/{service}/leader")).await
    }

    /// Makes an instance the leader of a service whose leader is set by hand.
    pub async fn set_leader(&self, service: &str, id: &str) -> Result<Revision, Error> {
        self.client.put(&format!("/services/{service}/leader"), &json!({ "id": id })).await
    }

    /// The meta of a service.
    pub async fn meta(&self, service: &str) -> Result<ServiceMeta, Error> {
        self.client.get(&format!("/services/{service}/meta")).await
    }

    /// Sets the meta of a service if its index is that of `meta`; answers with its new index. `conflict` otherwise.
    pub async fn set_meta(&self, service: &str, meta: &ServiceMeta) -> Result<ServiceMeta, Error> {
        self.client.put(&format!("/services/{service}/meta"), meta).await
    }

    /// Watches a service, which need not exist yet.
    pub fn watch(&self, service: &str) -> ServiceWatch {
        ServiceWatch::begin(self.client.clone(), service)
    }

    /// Watches all services.
    pub fn watch_all(&self) -> AllWatch {
        AllWatch::begin(self.client.clone())
    }

    /// The HTTP client.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

fn instance_path(service: &str, id: &str) -> String {
    format!("/services/{service}/instances/{id}")
}

/// Takes `user:key@` or `key@` out of a URL.
fn split_key(url: &str) -> (String, Option<String>) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url.into(), None) };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        None => (url.into(), None),
        Some((user, _)) => {
            let key = user.split_once(':').map_or(user, |(_, key)| key);
            let base = format!("{scheme}://{}", &rest[user.len() + 1..]);
            (base, Some(key.to_owned()).filter(|key| !key.is_empty()))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_may_be_in_the_url() {
        let split = |url| split_key(url);
        assert_eq!(split("http://a:1"), ("http://a:1".into(), None));
        assert_eq!(split("http://:key@a:1/x"), ("http://a:1/x".into(), Some("key".into())));
        assert_eq!(split("http://key@a:1"), ("http://a:1".into(), Some("key".into())));
        assert_eq!(split("a:1"), ("a:1".into(), None));
    }

    proptest! {
        #[test]
        fn splitting_never_panics(url in ".{0,40}") {
            let _ = split_key(&url);
            let _ = split_key(&format!("http://{url}"));
        }
    }
}
