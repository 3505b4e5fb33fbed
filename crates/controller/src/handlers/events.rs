//! `/events`.

use api::{controller::Event, id::AppId};
use axum::{
    Json,
    extract::{Path, State},
    response::IntoResponse,
};
use daemon::Query;
use futures_util::StreamExt;
use http::HeaderMap;
use serde::Deserialize;

use super::{Answer, Either, id, page::flag};
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
    #[serde(deserialize_with = "flag")]
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
        let since = first(&controller, &wanted, &filter, &headers).await?;
        let events = controller.events.after(since, filter)?.map(|told| told.encoded());
        return Ok(daemon::events::response_of_bytes(events));
    }
    let client = controller.db.client().await?;
    let (since, before) = (wanted.since_id.unwrap_or(0), wanted.before_id.unwrap_or(i64::MAX));
    let count = wanted.count.unwrap_or(100).clamp(1, MOST);
    let events = store::events::newest(&client, &filter, since, before, count).await?;
    Ok(Json(events).into_response())
}

/// The id after which a stream begins: the last one the client has, the one it names, or with `past` the beginning or the
/// last `count`; else now.
async fn first(
    controller: &Controller,
    wanted: &Wanted,
    filter: &Filter,
    headers: &HeaderMap,
) -> Result<i64> {
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    if let Some(since) = seen.filter(|id| *id > 0).or(wanted.since_id) {
        // After one that has not been yet, as of another database, comes what happens from now on.
        return Ok(since.clamp(0, controller.events.last().await?));
    }
    if !wanted.past {
        return controller.events.last().await;
    }
    let Some(count) = wanted.count else { return Ok(0) };
    let client = controller.db.client().await?;
    let count = count.clamp(1, MOST);
    let last = store::events::newest(&client, filter, 0, i64::MAX, count).await?;
    Ok(last.last().map_or(0, |event| event.id - 1))
}

/// A stream would ask the database again and again for what it refuses.
fn check_text(field: &'static str, text: Option<&str>) -> Result<()> {
    match text {
        Some(text) if text.contains('\0') => Err(Error::invalid(field, "holds a NUL character")),
        _ => Ok(()),
    }
}

async fn filter(controller: &Controller, wanted: &Wanted) -> Result<Filter> {
    check_text("object_types", wanted.object_types.as_deref())?;
    check_text("object_id", wanted.object_id.as_deref())?;
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
    let object = wanted.object_id.clone().filter(|id| !id.is_empty());
    // Ids are kept without dashes.
    let plain = |id: String| uuid::Uuid::try_parse(&id).map_or(id, |id| id.simple().to_string());
    Ok(Filter { app, types, object: object.map(plain) })
}

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path(event): Path<String>,
) -> Answer<Event> {
    let number = id("event", &event)?;
    let found = store::events::find(&controller.db.client().await?, number).await?;
    found.map(Json).ok_or_else(|| Error::missing("event", event))
}
