//! `/events`.

use api::{controller::Event, id::AppId};
use axum::{
    Json,
    extract::{Path, State},
    response::IntoResponse,
};
use daemon::Query;
use http::HeaderMap;
use serde::Deserialize;

use super::{Answer, Either, id};
use crate::{
    error::{Error, Result},
    server::Controller,
    store::{self, events::Filter},
};

/// Most events a list has.
const MOST: i64 = 1000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Wanted {
    app_id: Option<String>,
    object_types: Option<String>,
    object_id: Option<String>,
    since_id: Option<i64>,
    before_id: Option<i64>,
    count: Option<i64>,
    past: bool,
}

/// A stream, from a known event on or from now; or a list, newest first.
pub(crate) async fn list(
    State(controller): State<Controller>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Either {
    let filter = filter(&controller, &wanted).await?;
    if daemon::events::wanted(&headers) {
        let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
        let since = seen.or(wanted.since_id).or(wanted.past.then_some(0));
        let since = match since {
            Some(since) => since,
            None => controller.events.last().await?,
        };
        return Ok(daemon::events::response(controller.events.after(since, filter)));
    }
    let client = controller.db.client().await?;
    let (since, before) = (wanted.since_id.unwrap_or(0), wanted.before_id.unwrap_or(i64::MAX));
    let count = wanted.count.unwrap_or(100).clamp(1, MOST);
    let events = store::events::newest(&client, &filter, since, before, count).await?;
    Ok(Json(events).into_response())
}

async fn filter(controller: &Controller, wanted: &Wanted) -> Result<Filter> {
    let types = wanted.object_types.as_deref().unwrap_or_default();
    let types = types.split(',').filter(|kind| !kind.is_empty()).map(str::to_owned).collect();
    let app = match wanted.app_id.as_deref().filter(|app| !app.is_empty()) {
        None => None,
        // Events of a deleted app are there to be seen.
        Some(app) => match app.parse::<AppId>() {
            Ok(id) => Some(id),
            Err(_) => Some(store::apps::find(&controller.db.client().await?, app).await?.id),
        },
    };
    Ok(Filter { app, types, object: wanted.object_id.clone() })
}

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path(event): Path<String>,
) -> Answer<Event> {
    let number = id("event", &event)?;
    let found = store::events::find(&controller.db.client().await?, number).await?;
    found.map(Json).ok_or_else(|| Error::missing("event", event))
}
