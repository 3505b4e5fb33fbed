//! Who leads a service.

use api::discoverd::{EventKind, LeaderType, Revision};
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use daemon::{ApiError, Body, events};
use http::HeaderMap;
use serde::Deserialize;

use super::{reading, writing};
use crate::{error::Failure, routes::App, sse};

/// The leader, or every leader to come.
pub(crate) async fn show(
    State(app): State<App>,
    Path(service): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let service = reading(&service)?;
    if events::wanted(&headers) {
        let wanted = |kind| kind == EventKind::Leader;
        return Ok(sse::response(app.mirror.subscribe(service.as_str()), wanted, app.stop));
    }
    let found = app.mirror.read(|directory| {
        directory.service(service.as_str())?;
        Some(directory.leader(service.as_str()))
    });
    match found {
        None => Err(Failure::NoService(service.to_string()).into()),
        Some(None) => Err(Failure::NoLeader(service.to_string()).into()),
        Some(Some(leader)) => Ok(Json(leader).into_response()),
    }
}

/// The instance that shall lead. Original clients send the whole instance.
#[derive(Debug, Deserialize)]
pub(crate) struct Choice {
    id: String,
}

pub(crate) async fn choose(
    State(app): State<App>,
    Path(service): Path<String>,
    Body(Choice { id }): Body<Choice>,
) -> Result<Json<Revision>, ApiError> {
    let service = writing(&service)?;
    check_choice(&app, service.as_str(), &id)?;
    match app.store.choose_leader(service.as_str(), &id).await {
        Ok(revision) => {
            app.mirror.until(revision).await;
            Ok(Json(Revision { revision }))
        }
        Err(err) if err.is_conflict() => Err(Failure::NoInstance(service.to_string()).into()),
        Err(err) => Err(Failure::from(err).into()),
    }
}

/// Whether somebody may choose this leader.
pub(crate) fn check_choice(app: &App, service: &str, id: &str) -> Result<(), Failure> {
    app.registrar.check_etcd()?;
    app.mirror.read(|directory| {
        let of = directory.service(service).ok_or_else(|| Failure::NoService(service.into()))?;
        if of.leader_type() != LeaderType::Manual {
            return Err(Failure::NotManual(service.into()));
        }
        of.instance(id).map(|_| ()).ok_or_else(|| Failure::NoInstance(service.into()))
    })
}
