//! Services as wholes.

use api::discoverd::ServiceConfig;
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use daemon::{ApiError, Body, Query, events};
use http::HeaderMap;

use super::{reading, writing};
use crate::{
    error::Failure,
    mirror::Freshness,
    relay::{self, After},
    routes::App,
    sse,
};

/// All events of one service. Of one that does not exist yet, the events to come.
pub(crate) async fn watch(
    State(app): State<App>,
    Path(service): Path<String>,
) -> Result<Response, ApiError> {
    let service = reading(&service)?;
    Ok(sse::response(app.mirror.subscribe(service.as_str()), |_| true, app.stop))
}

/// The names of all services, or all their events.
pub(crate) async fn list(State(app): State<App>, headers: HeaderMap) -> Response {
    if events::wanted(&headers) {
        return sse::response(app.mirror.subscribe_all(), |_| true, app.stop);
    }
    let names = app.mirror.read(|directory| {
        directory.services().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    });
    Json(names).into_response()
}

/// Everything, for the discoverd of another host. One that follows another itself tells nothing: nobody would notice a ring.
pub(crate) async fn facts(
    State(app): State<App>,
    Query(after): Query<After>,
) -> Result<Response, ApiError> {
    if app.mirror.freshness() != Freshness::Current {
        return Err(Failure::WatchesNot.into());
    }
    let told = relay::response(&app.mirror, after, &app.listings, app.stop);
    told.ok_or_else(|| Failure::TooManyFollow.into())
}

pub(crate) async fn create(
    State(app): State<App>,
    Path(service): Path<String>,
    Body(config): Body<ServiceConfig>,
) -> Result<Json<ServiceConfig>, ApiError> {
    let service = writing(&service)?;
    app.registrar.check_etcd()?;
    match app.store.create_service(service.as_str(), config).await {
        Ok(revision) => {
            app.mirror.until(revision).await;
            Ok(Json(config))
        }
        Err(err) if err.is_conflict() => Err(Failure::ServiceExists(service.to_string()).into()),
        Err(err) => Err(Failure::from(err).into()),
    }
}

pub(crate) async fn remove(
    State(app): State<App>,
    Path(service): Path<String>,
) -> Result<Json<()>, ApiError> {
    let service = writing(&service)?;
    app.registrar.check_etcd()?;
    if app.mirror.read(|directory| directory.service(service.as_str()).is_none()) {
        return Err(Failure::NoService(service.to_string()).into());
    }
    app.registrar.remove_service(service.as_str()).await?;
    Ok(Json(()))
}
