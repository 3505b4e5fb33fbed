use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    sync::PoisonError,
};

use api::{
    host::{HostStatus, Invite},
    id::JobId,
    tag,
};
use axum::{Json, extract::State};
use daemon::{ApiError, Body};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    identity::{self, HostFile},
    routes::{Alone, App},
};

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

/// Whether it can do its work: its engine and discoverd answer, and it has joined those that discoverd names.
pub(crate) async fn health(app: App) -> Result<(), String> {
    let answered = app.host.engine.docker().ping().await;
    answered.map_err(|err| format!("the container engine does not answer: {err}"))?;
    if app.leadership.is_stale() {
        return Err("discoverd does not answer: what is known of the hosts is out of date".into());
    }
    let (hosts, _) = app.leadership.known();
    match hosts.contains_key(&app.host.settings.id) {
        true => Ok(()),
        false => Err("discoverd does not name this host; is it there, and etcd?".into()),
    }
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
    tag::check(&changed.tags).map_err(|bad| ApiError::invalid("tags", bad.to_string()))?;
    identity::write(&app.host.folders, &changed)
        .map_err(|err| ApiError::internal("keeping the tags", &err))?;
    *file = changed;
    app.leadership.nudge();
    Ok(())
}

/// Makes an invitation. A host that was alone becomes the first of several, which takes a new start.
pub(crate) async fn invite(State(app): State<App>) -> Result<Json<Invite>, ApiError> {
    if let Some(neighbours) = &app.neighbours {
        let made = neighbours.invite(&app.etcd).await.map_err(|err| {
            ApiError::unavailable(format!("the invitation could not be kept: {err:#}"))
        })?;
        return Ok(Json(Invite { invitation: made.to_string() }));
    }
    let failed = |err: identity::IdentityError| {
        ApiError::internal("becoming the first of several hosts", &err)
    };
    identity::ensure_authority(&app.host.folders).map_err(failed)?;
    let Alone { tunnel_port, etcd_peer_port } = app.alone;
    let mut file = app.host.file.lock().unwrap_or_else(PoisonError::into_inner);
    let addr = match file.addr {
        Some(addr) => addr,
        None => identity::own_address(None).map_err(failed)?,
    };
    let now = Timestamp::now();
    let grown = HostFile { joined_at: Some(now), ..file.clone() };
    identity::write(&app.host.folders, &grown).map_err(failed)?;
    let tunnel = SocketAddrV4::new(addr, tunnel_port);
    identity::grow(&app.host.folders, &grown.id, tunnel, etcd_peer_port, now).map_err(failed)?;
    *file = grown;
    app.host.lifetime.end();
    let message =
        "this host was alone and starts anew, to be found by others; ask again in a moment";
    Err(ApiError::unavailable(message))
}
