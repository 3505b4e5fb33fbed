use std::{collections::BTreeMap, net::Ipv4Addr, sync::PoisonError};

use api::{host::HostStatus, id::JobId};
use axum::{Json, extract::State};
use daemon::{ApiError, Body};
use serde::Serialize;

use crate::{identity, routes::App};

pub(crate) async fn status(State(app): State<App>) -> Json<HostStatus> {
    let settings = &app.host.settings;
    let jobs = app.host.registry.active().len();
    Json(HostStatus {
        id: settings.id.clone(),
        boot_id: settings.boot_id.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        subnet: settings.subnet.to_string(),
        gateway: settings.gateway.into(),
        jobs: u32::try_from(jobs).unwrap_or(u32::MAX),
        capacity: app.host.capacity(),
        disk_free: app.host.disk_free(),
        leader: app.leadership.leads(),
    })
}

/// Whose an address is.
#[derive(Debug, Serialize)]
pub(crate) struct Owner {
    job_id: JobId,
    boot_id: String,
}

/// Addresses in use: what a router that cannot hear discoverd asks before it opens a connection.
pub(crate) async fn addresses(State(app): State<App>) -> Json<BTreeMap<Ipv4Addr, Owner>> {
    let boot_id = &app.host.settings.boot_id;
    let owners = app.host.addresses.owners().into_iter();
    Json(owners.map(|(ip, job_id)| (ip, Owner { job_id, boot_id: boot_id.clone() })).collect())
}

/// Sets tags; an empty value removes one.
pub(crate) async fn tags(
    State(app): State<App>,
    Body(tags): Body<BTreeMap<String, String>>,
) -> Result<(), ApiError> {
    let mut file = app.host.file.lock().unwrap_or_else(PoisonError::into_inner);
    let mut changed = file.clone();
    changed.tags.extend(tags);
    changed.tags.retain(|_, value| !value.is_empty());
    identity::write(&app.host.folders, &changed)
        .map_err(|err| ApiError::internal("keeping the tags", &err))?;
    *file = changed;
    app.leadership.nudge();
    Ok(())
}
