//! An app's routes, which strowger keeps.

use api::{
    controller::{App, META_SYSTEM_APP},
    route::{NewRoute, Route},
};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::Body;

use super::{Answer, done};
use crate::{
    error::{Error, Result},
    server::Controller,
    store::{self, Tx},
};

fn owner(app: &App) -> String {
    format!("controller/apps/{}", app.id)
}

async fn find(controller: &Controller, app: &str) -> Result<App> {
    store::apps::find(&controller.db.client().await?, app).await
}

pub(crate) async fn of_app(
    State(controller): State<Controller>,
    Path(app): Path<String>,
) -> Answer<Vec<Route>> {
    let app = find(&controller, &app).await?;
    Ok(Json(controller.neighbours.routes(&owner(&app)).await?))
}

/// Adds a route; answers when every router serves it.
pub(crate) async fn create(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Body(new): Body<NewRoute>,
) -> Answer<Route> {
    let app = find(&controller, &app).await?;
    Ok(Json(put(&controller, &app, new.flatten()).await?))
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

/// Removes what has a route's place, if the app it belonged to is no more: its deletion was interrupted.
async fn free(controller: &Controller, route: &Route) -> Result<()> {
    let Some(there) = controller.neighbours.route_at(route).await? else { return Ok(()) };
    let owner = there.parent_ref.strip_prefix("controller/apps/").and_then(|id| id.parse().ok());
    let client = controller.db.client().await?;
    let orphaned = match owner {
        Some(owner) => store::apps::is_deleted(&client, owner).await?,
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
    if !controller.neighbours.routes(&owner(app)).await?.is_empty() {
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
) -> Answer<Route> {
    let app = find(&controller, &app).await?;
    Ok(Json(own(&controller, &app, &format!("{kind}/{id}")).await?))
}

/// A route, if it is this app's.
async fn own(controller: &Controller, app: &App, id: &str) -> Result<Route> {
    let routes = controller.neighbours.routes(&owner(app)).await?;
    routes.into_iter().find(|route| route.id == id).ok_or_else(|| Error::missing("route", id))
}

/// Removes a route; answers when no router serves it.
pub(crate) async fn delete(
    State(controller): State<Controller>,
    Path((app, kind, id)): Path<(String, String, String)>,
) -> Answer<()> {
    let app = find(&controller, &app).await?;
    let route = own(&controller, &app, &format!("{kind}/{id}")).await?;
    let gone = controller.neighbours.delete_route(&route.id).await?;
    tell(&controller, &app, "route_deletion", &gone).await?;
    done()
}

/// Removes every route of an app.
pub(crate) async fn delete_all(controller: &Controller, app: &App) -> Result<()> {
    for route in controller.neighbours.routes(&owner(app)).await? {
        let gone = controller.neighbours.delete_route(&route.id).await?;
        tell(controller, app, "route_deletion", &gone).await?;
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
