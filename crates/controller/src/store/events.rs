//! Events.

use api::{controller::Event, id::AppId};
use pg::{GenericClient, Row, types::Json};
use uuid::Uuid;

use crate::error::Result;

const COLUMNS: &str = "event_id, app_id, object_type, object_id, data, created_at";
const FILTER: &str = "($1::uuid IS NULL OR app_id = $1) \
     AND (cardinality($2::text[]) = 0 OR object_type = ANY($2)) \
     AND ($3::text IS NULL OR object_id = $3)";

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

/// The first events after one, in order.
pub(crate) async fn after(
    db: &impl GenericClient,
    last: i64,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<Event>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM events WHERE event_id > $4 AND {FILTER} ORDER BY event_id LIMIT $5"
    );
    let app = filter.app.map(AppId::uuid);
    let rows = pg::rows(db, &sql, &[&app, &filter.types, &filter.object, &last, &limit]).await?;
    Ok(rows.iter().map(of_row).collect())
}

/// The newest events between two, newest first.
pub(crate) async fn newest(
    db: &impl GenericClient,
    filter: &Filter,
    since: i64,
    before: i64,
    limit: i64,
) -> Result<Vec<Event>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM events WHERE event_id > $4 AND event_id < $5 AND {FILTER} \
         ORDER BY event_id DESC LIMIT $6"
    );
    let app = filter.app.map(AppId::uuid);
    let rows =
        pg::rows(db, &sql, &[&app, &filter.types, &filter.object, &since, &before, &limit]).await?;
    Ok(rows.iter().map(of_row).collect())
}

/// An event.
pub(crate) async fn find(db: &impl GenericClient, id: i64) -> Result<Option<Event>> {
    let sql = format!("SELECT {COLUMNS} FROM events WHERE event_id = $1");
    Ok(pg::row_opt(db, &sql, &[&id]).await?.as_ref().map(of_row))
}
