//! An app's routes, which strowger keeps.

use std::cmp::Reverse;

use api::{
    controller::{App, META_SYSTEM_APP},
    route::{NewRoute, Route, Shown},
};
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use daemon::Query;
use http::header;
use serde::Deserialize;

use super::{Answer, done, form::Formed, page::Paging};
use crate::{
    error::{Error, Result},
    server::Controller,
    store::{self, Page, Tx},
};

/// The service of the controllers.
const SERVICE: &str = "controller";

fn owner(app: &App) -> String {
    format!("controller/apps/{}", app.id)
}

async fn find(controller: &Controller, app: &str) -> Result<App> {
    store::apps::find(&controller.db.client().await?, app).await
}

pub(crate) async fn of_app(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Query(paging): Query<Paging>,
) -> Answer<Vec<Shown>> {
    let page = paging.page_of_routes()?;
    let app = find(&controller, &app).await?;
    let routes = controller.neighbours.routes(Some(&owner(&app))).await?;
    Ok(Json(shown(routes, &page)?))
}

/// A page of routes, newest first.
fn shown(mut routes: Vec<Route>, page: &Page<String>) -> Result<Vec<Shown>> {
    let place = |route: &Route| Reverse((route.created_at, route.id.clone()));
    routes.sort_by_key(place);
    let begin = match &page.before {
        Some(id) => {
            let at = routes.iter().position(|route| route.id == *id);
            at.ok_or_else(store::begin_again)? + 1
        }
        None => 0,
    };
    let limit = usize::try_from(page.limit).unwrap_or_default();
    Ok(routes.into_iter().skip(begin).take(limit).map(Shown::from).collect())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Owned {
    parent_ref: Option<String>,
}

/// The routes of all apps.
pub(crate) async fn list(
    State(controller): State<Controller>,
    Query(Owned { parent_ref }): Query<Owned>,
    Query(paging): Query<Paging>,
) -> Answer<Vec<Shown>> {
    let page = paging.page_of_routes()?;
    let routes = controller.neighbours.routes(parent_ref.as_deref()).await?;
    Ok(Json(shown(routes, &page)?))
}

/// Adds a route; answers when every router serves it.
pub(crate) async fn create(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Formed(new): Formed<NewRoute>,
) -> Answer<Shown> {
    let app = find(&controller, &app).await?;
    Ok(Json(put(&controller, &app, flattened(new, None)?).await?.into()))
}

/// Changes a route. Its place (domain and path, or port) is what it is: another place is another route.
pub(crate) async fn replace(
    State(controller): State<Controller>,
    Path((app, kind, id)): Path<(String, String, String)>,
    Formed(new): Formed<NewRoute>,
) -> Answer<Shown> {
    let app = find(&controller, &app).await?;
    let there = own(&controller, &app, &kind, &id).await?;
    let mut route = flattened(new, Some(&there))?;
    let same = |given: &str, there: &str| given.is_empty() || given.eq_ignore_ascii_case(there);
    if !same(&route.kind, &there.kind) {
        return Err(Error::invalid("type", "cannot be changed: add another route instead"));
    }
    if !same(&route.domain, &there.domain) || !same(&route.path, &there.path) {
        return Err(Error::invalid("domain", "cannot be changed: add another route instead"));
    }
    if route.port != 0 && route.port != there.port {
        return Err(Error::invalid("port", "cannot be changed: add another route instead"));
    }
    route.kind.clone_from(&there.kind);
    route.domain.clone_from(&there.domain);
    route.path.clone_from(&there.path);
    route.port = there.port;
    if route.service.is_empty() {
        route.service.clone_from(&there.service);
    }
    Ok(Json(put(&controller, &app, route).await?.into()))
}

fn flattened(new: NewRoute, stored: Option<&Route>) -> Result<Route> {
    new.flatten(stored).map_err(|err| Error::invalid(err.0, err.to_string()))
}

async fn put(controller: &Controller, app: &App, mut route: Route) -> Result<Route> {
    route.parent_ref = owner(app);
    if route.service.is_empty() {
        route.service = format!("{}-web", app.name);
    }
    match route.kind.as_str() {
        "http" if route.domain.is_empty() => {
            return Err(Error::invalid("domain", "must not be blank"));
        }
        "http" | "tcp" => {}
        _ => return Err(Error::invalid("type", "must be http or tcp")),
    }
    check_service(controller, app, &route).await?;
    let stored = match controller.neighbours.put_route(&route).await? {
        Some(stored) => stored,
        None => {
            free(controller, &route).await?;
            let stored = controller.neighbours.put_route(&route).await?;
            stored.ok_or_else(|| taken(&route))?
        }
    };
    tell(controller, app, "route", &stored).await?;
    Ok(stored)
}

/// A route leads to a service of its own app: another app's, or one of Flynn's, is not for this one to publish.
async fn check_service(controller: &Controller, app: &App, route: &Route) -> Result<()> {
    let services = {
        let client = controller.db.client().await?;
        store::services::of_app(&client, app.id).await?
    };
    if services.contains(&route.service) {
        return Ok(());
    }
    let message = format!(
        "{:?} is no service of {}: choose one of {}, or deploy a release that offers it first",
        route.service,
        app.name,
        services.join(", ")
    );
    Err(Error::invalid("service", message))
}

/// Removes what has a route's place, if the app it belonged to is no more: its deletion was interrupted.
async fn free(controller: &Controller, route: &Route) -> Result<()> {
    let Some(there) = controller.neighbours.route_at(route).await? else { return Ok(()) };
    let owner = there.parent_ref.strip_prefix("controller/apps/").and_then(|id| id.parse().ok());
    let orphaned = match owner {
        Some(owner) => {
            let client = controller.db.client().await?;
            store::apps::is_deleted(&client, owner).await?
        }
        None => false,
    };
    if !orphaned {
        return Err(taken(route));
    }
    controller.neighbours.delete_route(&there.id).await.map(drop)
}

fn taken(route: &Route) -> Error {
    let place = if route.kind == "tcp" {
        format!("the port {}", route.port)
    } else {
        format!("the domain {}{}", route.domain, route.path)
    };
    Error::Conflict(format!(
        "{place} belongs to another app: remove the route there first, or choose another"
    ))
}

/// Gives an app the route `<app>.<cluster domain>`, unless it has any or is a part of Flynn.
pub(crate) async fn ensure_default_route(controller: &Controller, app: &App) -> Result<()> {
    let system = app.meta.get(META_SYSTEM_APP).is_some_and(|system| system == "true");
    let Some(domain) = controller.default_route_domain.as_deref().filter(|_| !system) else {
        return Ok(());
    };
    if !controller.neighbours.routes(Some(&owner(app))).await?.is_empty() {
        return Ok(());
    }
    let route = Route {
        kind: "http".into(),
        domain: format!("{}.{domain}", app.name),
        service: format!("{}-web", app.name),
        ..Route::default()
    };
    put(controller, app, route).await.map(drop)
}

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path((app, kind, id)): Path<(String, String, String)>,
) -> Answer<Shown> {
    let app = find(&controller, &app).await?;
    Ok(Json(own(&controller, &app, &kind, &id).await?.into()))
}

/// A route, if it is this app's. Its id may be given with dashes.
async fn own(controller: &Controller, app: &App, kind: &str, id: &str) -> Result<Route> {
    let id = full_id(kind, id);
    let routes = controller.neighbours.routes(Some(&owner(app))).await?;
    routes.into_iter().find(|route| route.id == id).ok_or_else(|| Error::missing("route", id))
}

/// The id of a route, whose second half may have come with dashes.
pub(super) fn full_id(kind: &str, id: &str) -> String {
    let id = uuid::Uuid::try_parse(id).map_or(id.to_owned(), |id| id.simple().to_string());
    format!("{kind}/{id}")
}

/// The certificate the controller is reached by, for who has no key yet.
pub(crate) async fn certificate(State(controller): State<Controller>) -> Result<Response> {
    let routes = controller.neighbours.routes(None).await?;
    let own = routes.into_iter().filter(|route| route.kind == "http" && route.service == SERVICE);
    let pem = own.filter_map(|route| route.tls_cert).next();
    let pem = pem.ok_or_else(|| Error::missing("certificate of", SERVICE))?;
    Ok(([(header::CONTENT_TYPE, "application/x-x509-ca-cert")], pem).into_response())
}

/// Removes a route; answers when no router serves it.
pub(crate) async fn delete(
    State(controller): State<Controller>,
    Path((app, kind, id)): Path<(String, String, String)>,
) -> Answer<()> {
    let app = find(&controller, &app).await?;
    let route = own(&controller, &app, &kind, &id).await?;
    let gone = controller.neighbours.delete_route(&route.id).await?;
    tell(&controller, &app, "route_deletion", &gone).await?;
    done()
}

/// Removes every route of an app.
pub(crate) async fn delete_all(controller: &Controller, app: &App) -> Result<()> {
    for route in controller.neighbours.routes(Some(&owner(app))).await? {
        match controller.neighbours.delete_route(&route.id).await {
            Ok(gone) => tell(controller, app, "route_deletion", &gone).await?,
            // Another controller was first.
            Err(Error::Neighbour { source, .. }) if source.is_not_found() => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

async fn tell(
    controller: &Controller,
    app: &App,
    object_type: &'static str,
    route: &Route,
) -> Result<()> {
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let told = Route { tls_key: None, ..route.clone() };
    tx.event(app.id, object_type, &told.id, &told);
    tx.commit().await
}
