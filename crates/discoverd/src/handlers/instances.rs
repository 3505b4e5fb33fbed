//! Instances of services.

use std::collections::BTreeMap;

use api::discoverd::{EventKind, Instance, META_HOST, Revision};
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use daemon::{ApiError, Body, Query, events};
use http::HeaderMap;
use serde::Deserialize;

use super::{reading, writing};
use crate::{
    domain::{directory::Hold, name},
    error::Failure,
    routes::App,
    sse,
};

/// The instances of a service, oldest first, or their events.
pub(crate) async fn list(
    State(app): State<App>,
    Path(service): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let service = reading(&service)?;
    if events::wanted(&headers) {
        let wanted = |kind| {
            use EventKind::{Current, Down, Up, Update};
            matches!(kind, Up | Update | Down | Current)
        };
        return Ok(sse::response(app.mirror.subscribe(service.as_str()), wanted, app.stop));
    }
    let instances: Option<Vec<Instance>> = app.mirror.read(|directory| {
        let service = directory.service(service.as_str())?;
        Some(service.instances().map(|held| held.instance.clone()).collect())
    });
    let instances = instances.ok_or_else(|| Failure::NoService(service.to_string()))?;
    Ok(Json(instances).into_response())
}

/// Which instances are asked for.
#[derive(Debug, Deserialize)]
pub(crate) struct Whose {
    /// Only those of one host's jobs.
    host: Option<String>,
}

/// All instances of all services, oldest first.
pub(crate) async fn list_all(
    State(app): State<App>,
    Query(Whose { host }): Query<Whose>,
) -> Json<BTreeMap<String, Vec<Instance>>> {
    let wanted = |one: &&Instance| host.is_none() || one.meta.get(META_HOST) == host.as_ref();
    let all = app.mirror.read(|directory| {
        let services = directory.services().map(|(name, service)| {
            let instances = service.instances().map(|held| &held.instance).filter(wanted);
            (name.to_owned(), instances.cloned().collect())
        });
        services.filter(|(_, instances): &(_, Vec<_>)| !instances.is_empty()).collect()
    });
    Json(all)
}

/// Registers an instance; each repetition is a heartbeat.
pub(crate) async fn register(
    State(app): State<App>,
    Path((service, id)): Path<(String, String)>,
    headers: HeaderMap,
    Body(instance): Body<Instance>,
) -> Result<Json<Revision>, ApiError> {
    let service = writing(&service)?;
    name::check(&service, &instance, &id).map_err(Failure::from)?;
    let hold = match headers.get("flynn-lease").map(|value| value.as_bytes()) {
        None => Hold::Heartbeat,
        Some(b"host") => Hold::Host,
        Some(_) => return Err(ApiError::invalid("Flynn-Lease", "can only be host")),
    };
    let revision = app.registrar.register(service.as_str(), instance, hold).await?;
    Ok(Json(Revision { revision }))
}

/// Withdraws an instance; it need not be registered.
pub(crate) async fn withdraw(
    State(app): State<App>,
    Path((service, id)): Path<(String, String)>,
) -> Result<Json<Revision>, ApiError> {
    let service = writing(&service)?;
    if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ApiError::invalid("id", "must be 32 hex digits"));
    }
    let revision = app.registrar.withdraw(service.as_str(), &id).await?;
    Ok(Json(Revision { revision }))
}
