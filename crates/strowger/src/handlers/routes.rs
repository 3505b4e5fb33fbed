//! `/routes`.

use std::{io, time::Duration};

use api::route::{NewRoute, Route, Stored};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::{ApiError, Body, Query};
use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    domain::route::{self, Invalid, PORT_POOL},
    error::Error,
    proxy::Listener,
    routes::Api,
    store::StoreError,
    tls,
};

/// A change is answered once this router serves it, or after this.
const SERVED_LIMIT: Duration = Duration::from_secs(2);

/// Query of the list.
#[derive(Debug, Deserialize)]
pub(crate) struct Filter {
    parent_ref: Option<String>,
}

fn flattened(route: NewRoute) -> Result<Route, ApiError> {
    route.flatten(None).map_err(|err| ApiError::invalid(err.0, err.to_string()))
}

/// `POST /routes`
pub(crate) async fn create(
    State(api): State<Api>,
    Body(route): Body<NewRoute>,
) -> Result<Json<Stored>, ApiError> {
    let route = check(flattened(route)?)?;
    let now = Timestamp::now();
    let stored = match (route.kind.as_str(), route.port) {
        ("tcp", 0) => create_on_some_port(&api, route, now).await?,
        ("tcp", port) => {
            check_port(&api, port)?;
            api.routes.create(route, now).await.map_err(Error::from)?
        }
        _ => api.routes.create(route, now).await.map_err(Error::from)?,
    };
    Ok(served(&api, stored).await)
}

/// `PUT /routes`
pub(crate) async fn replace(
    State(api): State<Api>,
    Body(route): Body<NewRoute>,
) -> Result<Json<Stored>, ApiError> {
    let route = check(as_known(&api, flattened(route)?).await?)?;
    put(&api, route).await
}

/// `PUT /routes/:type/:id`
pub(crate) async fn replace_one(
    State(api): State<Api>,
    Path((kind, id)): Path<(String, String)>,
    Body(route): Body<NewRoute>,
) -> Result<Json<Stored>, ApiError> {
    let mut route = flattened(route)?;
    route.kind.clone_from(&kind);
    let route = check(as_known(&api, route).await?)?;
    if route.id != format!("{kind}/{id}") {
        let problem = "does not belong to that id; a route for another address is another route";
        return Err(ApiError::invalid(if kind == "tcp" { "port" } else { "domain" }, problem));
    }
    put(&api, route).await
}

/// A route that was read, changed and is sent back has its certificate and not the key, which is never answered: that says
/// nothing new of either.
async fn as_known(api: &Api, mut route: Route) -> Result<Route, Error> {
    if route.tls_cert.is_none() || route.tls_key.is_some() {
        return Ok(route);
    }
    let id = route::canonical(Route { tls_cert: None, ..route.clone() })?.id;
    match api.routes.get(&id).await {
        Ok(there) if there.route.tls_cert == route.tls_cert => route.tls_cert = None,
        Ok(_) | Err(StoreError::Missing(_)) => {}
        Err(err) => return Err(err.into()),
    }
    Ok(route)
}

async fn put(api: &Api, route: Route) -> Result<Json<Stored>, ApiError> {
    if route.kind == "tcp" {
        if route.port == 0 {
            return Err(ApiError::invalid("port", "must be given to replace a tcp route"));
        }
        check_port(api, route.port)?;
    }
    let stored = api.routes.replace(route, Timestamp::now()).await.map_err(Error::from)?;
    Ok(served(api, stored).await)
}

/// `GET /routes`: those served, newest first.
pub(crate) async fn list(State(api): State<Api>, Query(filter): Query<Filter>) -> Json<Vec<Route>> {
    let known = tokio::time::timeout(SERVED_LIMIT, api.live.until_known());
    let _ = known.await;
    let table = api.live.table();
    let of = filter.parent_ref.as_deref();
    let wanted =
        table.all.iter().filter(|target| of.is_none_or(|of| target.route.parent_ref == of));
    let mut routes: Vec<_> = wanted.map(|target| told(&api, target.route.clone())).collect();
    routes.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
    Json(routes)
}

/// `GET /routes/:type/:id`
pub(crate) async fn show(
    State(api): State<Api>,
    Path((kind, id)): Path<(String, String)>,
) -> Result<Json<Stored>, ApiError> {
    let stored = api.routes.get(&format!("{kind}/{id}")).await.map_err(Error::from)?;
    Ok(Json(Stored { route: told(&api, stored.route), ..stored }))
}

/// `DELETE /routes/:type/:id`
pub(crate) async fn remove(
    State(api): State<Api>,
    Path((kind, id)): Path<(String, String)>,
) -> Result<Json<Stored>, ApiError> {
    let stored = api.routes.remove(&format!("{kind}/{id}")).await.map_err(Error::from)?;
    Ok(served(&api, stored).await)
}

fn check(route: Route) -> Result<Route, Error> {
    let route = route::canonical(route)?;
    if let (Some(chain), Some(key)) = (&route.tls_cert, &route.tls_key)
        && !(chain.is_empty() && key.is_empty())
    {
        // There is one certificate a name: clients choose by it before they name a path.
        if !route.path.is_empty() {
            return Err(Invalid {
                field: "tls_cert",
                problem: format!(
                    "belongs to the route of {} as a whole, not to a path",
                    route.domain
                ),
            }
            .into());
        }
        tls::certified(chain, key)?;
    }
    Ok(route)
}

/// Whether a tcp route may have a port, and this host has it to give.
fn check_port(api: &Api, port: u16) -> Result<(), Error> {
    if api.reserved.contains(&port) {
        return Err(Error::PortInUse(port));
    }
    if api.live.table().routes.port(port).is_some() {
        return Ok(());
    }
    match Listener::bind(port) {
        Err(err) if err.kind() == io::ErrorKind::AddrInUse => Err(Error::PortInUse(port)),
        _ => Ok(()),
    }
}

async fn create_on_some_port(api: &Api, route: Route, now: Timestamp) -> Result<Stored, Error> {
    for port in PORT_POOL {
        if api.live.table().routes.port(port).is_some() || check_port(api, port).is_err() {
            continue;
        }
        let route = route::canonical(Route { port, ..route.clone() })?;
        match api.routes.create(route, now).await {
            Err(StoreError::Exists(_) | StoreError::Contended(_)) => {}
            other => return Ok(other?),
        }
    }
    Err(Error::NoPort(PORT_POOL))
}

/// The answer to a change, once it is served here.
async fn served(api: &Api, stored: Stored) -> Json<Stored> {
    let mut revision = api.live.revision();
    let served = revision.wait_for(|seen| *seen >= Some(stored.revision));
    // Whoever must know asks every router by `/sync`.
    let _ = tokio::time::timeout(SERVED_LIMIT, served).await;
    Json(Stored { route: told(api, stored.route), ..stored })
}

/// A route as it is answered: without the key, with how it stands with its certificate.
fn told(api: &Api, mut route: Route) -> Route {
    route.tls_key = None;
    if route.kind == "http" {
        route.certificate_status = api.live.certificate_status(&route.domain);
    }
    route
}
