#![doc = include_str!("../README.md")]

mod routers;

use std::time::Duration;

use api::route::{Drain, Drained, NewRoute, Route, RouterEvent, Stored, Sync};
pub use api_client::Error;
use api_client::{Client, Endpoint};
use futures_util::Stream;
pub use routers::{Routers, Unanswered};
use url::form_urlencoded::Serializer;

/// What a router gets on top of the time it was asked to wait, to answer that it did in vain.
const ANSWER_MARGIN: Duration = Duration::from_secs(2);

/// Longest time to a router's answer: who asks waits for it, and wants to be told that etcd is away.
const ANSWER: Duration = Duration::from_secs(8);

/// One router, or whichever of several answers.
#[derive(Debug, Clone)]
pub struct Strowger {
    client: Client,
}

impl Strowger {
    /// A client of the routers' API; `key` is the one derived for `strowger`.
    pub fn new(endpoint: impl Into<Endpoint>, key: Option<String>) -> Self {
        Self { client: Client::new(endpoint, key).with_timeout(ANSWER) }
    }

    /// `POST /routes`: stores a new route. A tcp route with port 0 gets a free one.
    ///
    /// The answer's revision is for [`Routers::sync`].
    pub async fn create_route(&self, route: &NewRoute) -> Result<Stored, Error> {
        self.client.post("/routes", route).await
    }

    /// `PUT /routes`: stores a route, replacing the one for the same domain and path, or port.
    pub async fn set_route(&self, route: &NewRoute) -> Result<Stored, Error> {
        self.client.put("/routes", route).await
    }

    /// `GET /routes`: all routes, or those of one owner, newest first. Keys of certificates are left out.
    pub async fn routes(&self, parent_ref: Option<&str>) -> Result<Vec<Route>, Error> {
        match parent_ref {
            None => self.client.get("/routes").await,
            Some(owner) => {
                let query =
                    Serializer::new(String::new()).append_pair("parent_ref", owner).finish();
                self.client.get(&format!("/routes?{query}")).await
            }
        }
    }

    /// `GET /routes/:type/:id`, by a route's id, `http/<hex>`.
    pub async fn route(&self, id: &str) -> Result<Stored, Error> {
        self.client.get(&format!("/routes/{id}")).await
    }

    /// `DELETE /routes/:type/:id`. The answer's revision is for [`Routers::sync`].
    pub async fn delete_route(&self, id: &str) -> Result<Stored, Error> {
        self.client.delete(&format!("/routes/{id}")).await
    }

    /// `GET /events`: all that this router serves, then every change.
    pub async fn events(
        &self,
    ) -> Result<impl Stream<Item = Result<RouterEvent, Error>> + Send + use<>, Error> {
        self.client.events("/events").await
    }

    /// `GET /sync`: waits until this router serves both revisions.
    pub async fn sync(&self, sync: Sync) -> Result<(), Error> {
        let client = self.client.with_timeout(limit(sync.timeout_ms)).without_retries();
        client.get::<Ignored>(&sync_path(sync)).await.map(drop)
    }

    /// `GET /drain`: waits until this router has nothing under way to a backend.
    pub async fn drain(&self, drain: &Drain) -> Result<Drained, Error> {
        let client = self.client.with_timeout(limit(drain.timeout_ms)).without_retries();
        client.get(&drain_path(drain)).await
    }
}

/// An answer of which only the status matters.
type Ignored = Option<std::collections::BTreeMap<String, u64>>;

fn limit(timeout_ms: u64) -> Duration {
    Duration::from_millis(timeout_ms) + ANSWER_MARGIN
}

fn sync_path(sync: Sync) -> String {
    let Sync { routes, services, timeout_ms } = sync;
    format!("/sync?routes={routes}&services={services}&timeout_ms={timeout_ms}")
}

fn drain_path(drain: &Drain) -> String {
    let mut query = Serializer::new(String::new());
    query
        .append_pair("addr", &drain.addr)
        .append_pair("services", &drain.services.to_string())
        .append_pair("timeout_ms", &drain.timeout_ms.to_string());
    if drain.keep_open {
        query.append_pair("keep_open", "true");
    }
    format!("/drain?{}", query.finish())
}
