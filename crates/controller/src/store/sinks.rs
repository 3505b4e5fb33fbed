//! Sinks: where logs shall go besides.

use api::{
    controller::{Delivery, NewSink, Sink},
    id::SinkId,
};
use pg::{GenericClient, Row, types::Json};
use uuid::Uuid;

use super::{Tx, json};
use crate::error::{Error, Result};

const COLUMNS: &str = "sink_id, kind, config, created_at, updated_at";
/// Most sinks there may be: each will be a connection of every host.
const MOST: i64 = 100;

fn of_row(row: &Row) -> Sink {
    Sink {
        id: row.get::<_, Uuid>("sink_id").into(),
        kind: row.get("kind"),
        config: json(row, "config"),
        delivery: Delivery::NotYet,
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    }
}

/// All sinks, newest first.
pub(crate) async fn list(db: &impl GenericClient) -> Result<Vec<Sink>> {
    let sql = format!("SELECT {COLUMNS} FROM sinks ORDER BY created_at DESC, sink_id LIMIT $1");
    Ok(pg::rows(db, &sql, &[&MOST]).await?.iter().map(of_row).collect())
}

/// A sink.
pub(crate) async fn find(db: &impl GenericClient, id: SinkId) -> Result<Sink> {
    let sql = format!("SELECT {COLUMNS} FROM sinks WHERE sink_id = $1");
    let row = pg::row_opt(db, &sql, &[&id.uuid()]).await?;
    row.as_ref().map(of_row).ok_or_else(|| Error::missing("sink", id))
}

/// Stores a sink. Its configuration may hold a password: it is in no event.
pub(crate) async fn insert(tx: &mut Tx<'_>, new: &NewSink) -> Result<Sink> {
    let id = SinkId::random();
    let sql = format!(
        "INSERT INTO sinks (sink_id, kind, config) SELECT $1, $2, $3 \
         WHERE (SELECT count(*) FROM sinks) < $4 RETURNING {COLUMNS}"
    );
    let params: &[&(dyn pg::types::ToSql + Sync)] =
        &[&id.uuid(), &new.kind, &Json(&new.config), &MOST];
    let row = pg::row_opt(&**tx, &sql, params).await?;
    let row = row.ok_or_else(|| {
        Error::Conflict(format!("there are {MOST} sinks already: remove one first"))
    })?;
    let sink = of_row(&row);
    tx.event(None, "sink", id, &Sink { config: serde_json::json!({}), ..sink.clone() });
    Ok(sink)
}

/// Removes a sink.
pub(crate) async fn delete(tx: &mut Tx<'_>, id: SinkId) -> Result<Sink> {
    let sql = format!("DELETE FROM sinks WHERE sink_id = $1 RETURNING {COLUMNS}");
    let row = pg::row_opt(&**tx, &sql, &[&id.uuid()]).await?;
    let sink = row.as_ref().map(of_row).ok_or_else(|| Error::missing("sink", id))?;
    tx.event(None, "sink_deletion", id, &Sink { config: serde_json::json!({}), ..sink.clone() });
    Ok(sink)
}
