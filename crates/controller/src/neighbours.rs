//! The daemons the controller asks: hosts, sampi, routers, providers.

use std::time::Duration;

use api::{
    error::ErrorCode,
    route::{NewRoute, Route, Stored, Sync},
};
use api_client::{Client, Endpoint};
use discoverd_client::{Discoverd, ServiceWatch};
use host_client::{Cluster, Host};
use shelf_client::Shelf;
use strowger_client::{Routers, Strowger};
use tracing::warn;

use crate::{
    config::Config,
    error::{Error, Result},
};

/// Longest wait for all routers to know a route.
const SYNC_MS: u64 = 10_000;
mod providers;

pub(crate) use providers::{Effect, Failure, bad_answer};

/// Where everybody is.
#[derive(Debug, Clone)]
pub(crate) struct Neighbours {
    discoverd: Discoverd,
    hosts: ServiceWatch,
    http: reqwest::Client,
    host_key: Option<String>,
    postgres_api_key: Option<String>,
    shelf: Option<Shelf>,
    strowger: Strowger,
    routers: Routers,
}

impl Neighbours {
    /// Begins to watch them.
    pub(crate) fn new(config: &Config) -> Self {
        let discoverd = Discoverd::new(&config.discoverd, None);
        let routers = discoverd.watch("strowger-api");
        let http = reqwest::Client::builder()
            // What was asked of one is not done by another.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(2))
            // As in api-client: a job that does not read its stdin for a while is not a host that is lost.
            .tcp_user_timeout(None)
            .tcp_nodelay(true)
            .http1_only()
            .no_proxy()
            .build()
            .expect("the options of the HTTP client are valid");
        Self {
            hosts: discoverd.watch("flynn-host"),
            http,
            host_key: config.host_key.clone(),
            postgres_api_key: config.postgres_api_key.clone(),
            shelf: config.shelf_key.as_ref().map(|key| {
                // Of several keys, separated by commas, the first is the one in use.
                let key = key.split(',').next().unwrap_or_default();
                Shelf::new(discoverd.watch("shelf").endpoint(), key)
            }),
            strowger: Strowger::new(routers.endpoint(), config.strowger_key.clone()),
            routers: Routers::registered(routers, config.strowger_key.clone()),
            discoverd,
        }
    }

    /// A host by its id.
    pub(crate) fn host(&self, id: &str) -> Result<Host> {
        let hosts = self.hosts.borrow();
        let found = hosts
            .instances
            .values()
            .chain(hosts.suspects.values())
            .find(|instance| instance.meta.get("id").is_some_and(|host| host == id));
        let host = found.ok_or_else(|| {
            Error::Away(format!("the host {id} is not in the cluster at the moment"))
        })?;
        Ok(Host::with_client(self.client(format!("http://{}", host.addr))))
    }

    /// Whether a host has left the cluster: discoverd lists others at this moment, and the leading one leads without it.
    pub(crate) async fn is_gone(&self, id: &str) -> Result<bool> {
        let may_be_there = {
            let hosts = self.hosts.borrow();
            // A listing that is old or empty proves nothing.
            let is_proof = hosts.current && !hosts.stale && !hosts.instances.is_empty();
            let mut known = hosts.instances.values().chain(hosts.suspects.values());
            !is_proof || known.any(|host| host.meta.get("id").is_some_and(|host| host == id))
        };
        if may_be_there {
            return Ok(false);
        }
        let state = self.sampi().state().await;
        let hosts = state.map_err(Error::neighbour("asking the cluster for its hosts"))?.hosts;
        Ok(!hosts.is_empty() && !hosts.contains_key(id))
    }

    /// Every host that is known.
    pub(crate) fn hosts(&self) -> Vec<(String, Host)> {
        let hosts = self.hosts.borrow();
        let known = hosts.instances.values().chain(hosts.suspects.values());
        let host = |addr| Host::with_client(self.client(format!("http://{addr}")));
        known.filter_map(|found| Some((found.meta.get("id")?.clone(), host(&found.addr)))).collect()
    }

    /// shelf.
    pub(crate) fn shelf(&self) -> Result<&Shelf> {
        self.shelf.as_ref().ok_or_else(|| {
            Error::Away("this controller was given no key of shelf (SHELF_KEY)".into())
        })
    }

    /// How many hosts there are; nothing until discoverd has said so.
    pub(crate) fn host_count(&self) -> Option<u32> {
        let hosts = self.hosts.borrow();
        hosts.current.then(|| u32::try_from(hosts.instances.len()).unwrap_or(u32::MAX))
    }

    /// sampi, on the leading host.
    pub(crate) fn sampi(&self) -> Cluster {
        Cluster::with_client(self.client(self.hosts.leader_endpoint()))
    }

    fn client(&self, endpoint: impl Into<Endpoint>) -> Client {
        Client::with_http(self.http.clone(), endpoint, self.host_key.clone())
    }

    /// The routes of an owner, or all.
    pub(crate) async fn routes(&self, parent_ref: Option<&str>) -> Result<Vec<Route>> {
        let doing = "asking the router for routes";
        self.strowger.routes(parent_ref).await.map_err(Error::neighbour(doing))
    }

    /// Stores a route, in place of the owner's own for the same domain or port; then waits until every router serves it.
    /// `None`: somebody else's has its place.
    pub(crate) async fn put_route(&self, route: &Route) -> Result<Option<Route>> {
        let new = NewRoute::from(route.clone());
        // Only a route that has a place can replace the one there; the others get a port of their own.
        let stored = if route.kind == "tcp" && route.port == 0 {
            self.strowger.create_route(&new).await
        } else {
            self.strowger.set_route(&new).await
        };
        match stored {
            Err(err) if err.code() == Some(ErrorCode::ObjectExists) => Ok(None),
            stored => self.settled("adding the route", stored).await.map(Some),
        }
    }

    /// The route that has a route's place, whoever owns it.
    pub(crate) async fn route_at(&self, route: &Route) -> Result<Option<Route>> {
        let all = self.routes(None).await?;
        Ok(all.into_iter().find(|there| same_place(there, route)))
    }

    /// Removes a route, and waits until no router serves it.
    pub(crate) async fn delete_route(&self, id: &str) -> Result<Route> {
        let stored = self.strowger.delete_route(id).await;
        self.settled("removing the route", stored).await
    }

    async fn settled(
        &self,
        doing: &'static str,
        stored: Result<Stored, api_client::Error>,
    ) -> Result<Route> {
        let stored = stored.map_err(Error::neighbour(doing))?;
        let sync = Sync { routes: stored.revision, services: 0, timeout_ms: SYNC_MS };
        self.routers.sync(sync).await.map_err(|err| {
            warn!(error = &err as &dyn std::error::Error, "{doing} is not known to all routers");
            Error::Away(format!("{doing} is stored, but {err}; it comes into force when they do"))
        })?;
        Ok(stored.route)
    }
}

fn same_place(a: &Route, b: &Route) -> bool {
    let path = |route: &Route| route.path.trim_end_matches('/').to_owned();
    a.kind == b.kind
        && a.domain.eq_ignore_ascii_case(&b.domain)
        && a.port == b.port
        && path(a) == path(b)
}
