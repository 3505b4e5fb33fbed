//! Facts about a service, changed by compare-and-set.

use api::discoverd::ServiceMeta;
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::{ApiError, Body};

use super::{leader::check_choice, reading, writing};
use crate::{error::Failure, routes::App};

pub(crate) async fn show(
    State(app): State<App>,
    Path(service): Path<String>,
) -> Result<Json<ServiceMeta>, ApiError> {
    let service = reading(&service)?;
    let found = app.mirror.read(|directory| {
        let of = directory.service(service.as_str());
        of.ok_or_else(|| Failure::NoService(service.to_string()))?
            .meta()
            .cloned()
            .ok_or_else(|| Failure::NoMeta(service.to_string()))
    })?;
    Ok(Json(found))
}

pub(crate) async fn set(
    State(app): State<App>,
    Path(service): Path<String>,
    Body(meta): Body<ServiceMeta>,
) -> Result<Json<ServiceMeta>, ApiError> {
    let service = writing(&service)?;
    let ServiceMeta { data, leader_id, index } = meta;
    app.registrar.check_etcd()?;
    if let Some(id) = &leader_id {
        check_choice(&app, service.as_str(), id)?;
    } else if app.mirror.read(|directory| directory.service(service.as_str()).is_none()) {
        return Err(Failure::NoService(service.to_string()).into());
    }
    match app.store.set_meta(service.as_str(), &data, index, leader_id.as_deref()).await {
        Ok(index) => {
            app.mirror.until(index).await;
            Ok(Json(ServiceMeta { data, leader_id, index }))
        }
        Err(err) if err.is_conflict() => {
            let present = app.mirror.read(|directory| {
                directory.service(service.as_str())?.meta().map(|meta| meta.index)
            });
            let (service, index) = (service.to_string(), present.unwrap_or(0));
            Err(Failure::MetaChanged { service, index }.into())
        }
        Err(err) => Err(Failure::from(err).into()),
    }
}
