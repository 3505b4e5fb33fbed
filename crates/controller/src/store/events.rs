//! Events.

use api::{controller::Event, id::AppId};
use pg::{
    GenericClient, Row,
    types::{Json, ToSql},
};
use uuid::Uuid;

use crate::error::Result;

const COLUMNS: &str = "event_id, app_id, object_type, object_id, data, created_at";

/// Which events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Of this app.
    pub(crate) app: Option<AppId>,
    /// Of these object types; all if empty.
    pub(crate) types: Vec<String>,
    /// Of this object.
    pub(crate) object: Option<String>,
}

impl Filter {
    /// Whether an event is one of them.
    pub(crate) fn includes(&self, event: &Event) -> bool {
        self.app.is_none_or(|app| event.app == Some(app))
            && (self.types.is_empty() || self.types.contains(&event.object_type))
            && self.object.as_ref().is_none_or(|object| *object == event.object_id)
    }
}

fn of_row(row: &Row) -> Event {
    Event {
        id: row.get("event_id"),
        app: row.get::<_, Option<Uuid>>("app_id").map(Into::into),
        object_type: row.get("object_type"),
        object_id: row.get("object_id"),
        data: row.get::<_, Json<_>>("data").0,
        created_at: row.get("created_at"),
    }
}

/// The id of the newest event that is visible; 0 if there is none.
pub(crate) async fn last(db: &impl GenericClient) -> Result<i64> {
    let sql = "SELECT coalesce(max(event_id), 0) FROM events";
    Ok(pg::row(db, sql, &[]).await?.get(0))
}

/// The first events after one and up to another, in order.
pub(crate) async fn between(
    db: &impl GenericClient,
    after: i64,
    to: i64,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<Event>> {
    select(db, "event_id > $1 AND event_id <= $2", (after, to), filter, "ASC", limit).await
}

/// The newest events between two, newest first.
pub(crate) async fn newest(
    db: &impl GenericClient,
    filter: &Filter,
    since: i64,
    before: i64,
    limit: i64,
) -> Result<Vec<Event>> {
    select(db, "event_id > $1 AND event_id < $2", (since, before), filter, "DESC", limit).await
}

/// A filter names only what it filters by, and one type by equality, so that each form has its index.
async fn select(
    db: &impl GenericClient,
    range: &str,
    (from, to): (i64, i64),
    filter: &Filter,
    order: &str,
    limit: i64,
) -> Result<Vec<Event>> {
    let app = filter.app.map(AppId::uuid);
    let mut sql = format!("SELECT {COLUMNS} FROM events WHERE {range}");
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![&from, &to, &limit];
    if let Some(app) = &app {
        params.push(app);
        sql += &format!(" AND app_id = ${}", params.len());
    }
    match &filter.types[..] {
        [] => {}
        [one] => {
            params.push(one);
            sql += &format!(" AND object_type = ${}", params.len());
        }
        _ => {
            params.push(&filter.types);
            sql += &format!(" AND object_type = ANY(${})", params.len());
        }
    }
    if let Some(object) = &filter.object {
        params.push(object);
        sql += &format!(" AND object_id = ${}", params.len());
    }
    sql += &format!(" ORDER BY event_id {order} LIMIT $3");
    Ok(pg::rows(db, &sql, &params).await?.iter().map(of_row).collect())
}

/// An event.
pub(crate) async fn find(db: &impl GenericClient, id: i64) -> Result<Option<Event>> {
    let sql = format!("SELECT {COLUMNS} FROM events WHERE event_id = $1");
    Ok(pg::row_opt(db, &sql, &[&id]).await?.as_ref().map(of_row))
}

/// What the last attempt to delete an app came to, if it failed.
pub(crate) async fn deletion_error(db: &impl GenericClient, app: AppId) -> Result<Option<String>> {
    let sql = "SELECT data->>'error' AS error FROM events \
               WHERE app_id = $1 AND object_type = 'app_deletion' ORDER BY event_id DESC LIMIT 1";
    let row = pg::row_opt(db, sql, &[&app.uuid()]).await?;
    Ok(row.and_then(|row| row.get("error")))
}
