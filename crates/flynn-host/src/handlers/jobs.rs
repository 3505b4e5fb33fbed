use api::{
    host::{ActiveJob, Event, EventKind, Job},
    id::JobId,
};
use axum::{
    Json,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use daemon::{ApiError, Body, events};
use futures_util::{Stream, StreamExt, stream};
use http::HeaderMap;
use serde::Deserialize;
use tokio::sync::broadcast::Receiver;

use super::{job_id, obey, term};
use crate::{
    error::{of_order, of_term},
    jobs::{orders, registry::Subscribed},
    routes::App,
};

#[derive(Debug, Deserialize)]
pub(crate) struct Listing {
    #[serde(default)]
    active: bool,
}

pub(crate) async fn list(
    State(app): State<App>,
    Query(listing): Query<Listing>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if let Some(term) = term(&headers)? {
        orders::promise(&app.host, term).await.map_err(of_term)?;
    }
    if events::wanted(&headers) {
        let Subscribed { jobs, events: live } = app.host.registry.subscribe();
        return Ok(events::response(current(jobs).chain(from_now(&app, live))));
    }
    let mut jobs = app.host.registry.all();
    jobs.retain(|_, job| !listing.active || job.status.is_active());
    Ok(Json(jobs).into_response())
}

/// What is known at subscription.
fn current(jobs: Vec<ActiveJob>) -> impl Stream<Item = Event> + Send {
    let known = jobs.into_iter().map(|job| Event { event: EventKind::Current, job: Some(job) });
    stream::iter(known.chain([Event { event: EventKind::Synced, job: None }]))
}

/// What happens from then on. It ends when the subscriber is too slow: it begins again with what is known then.
fn from_now(app: &App, live: Receiver<Event>) -> impl Stream<Item = Event> + Send + use<> {
    let live =
        stream::unfold(live, |mut live| async move { Some((live.recv().await.ok()?, live)) });
    live.take_until(app.host.lifetime.stop().cancelled_owned())
}

pub(crate) async fn one(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = job_id(&id)?;
    if events::wanted(&headers) {
        let Subscribed { mut jobs, events: live } = app.host.registry.subscribe();
        jobs.retain(|job| job.job.id == id);
        let of_it = move |event: &Event| event.job.as_ref().is_some_and(|job| job.job.id == id);
        let live = from_now(&app, live).filter(move |event| std::future::ready(of_it(event)));
        return Ok(events::response(current(jobs).chain(live)));
    }
    let job = app.host.registry.job(id).ok_or_else(|| unknown(id))?;
    Ok(Json(job).into_response())
}

fn unknown(id: JobId) -> ApiError {
    of_order(orders::OrderError::Unknown(id))
}

pub(crate) async fn put(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Body(job): Body<Job>,
) -> Result<(), ApiError> {
    let term = term(&headers)?;
    if job_id(&id)? != job.id {
        return Err(ApiError::invalid("id", "of the body is not the one of the path"));
    }
    orders::accept(&app.host, term, job).await.map_err(of_order)
}

pub(crate) async fn stop(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<(), ApiError> {
    obey(&app.host, &headers)?;
    let id = job_id(&id)?;
    let host = app.host.clone();
    // The order is synced to disk before it is acknowledged.
    let stopped = tokio::task::spawn_blocking(move || orders::stop(&host, id)).await;
    stopped.map_err(|err| ApiError::internal("stopping the job", &err))?.map_err(of_order)
}

pub(crate) async fn signal(
    State(app): State<App>,
    Path((id, signal)): Path<(String, u32)>,
    headers: HeaderMap,
) -> Result<(), ApiError> {
    obey(&app.host, &headers)?;
    orders::signal(&app.host, job_id(&id)?, signal).await.map_err(of_order)
}
