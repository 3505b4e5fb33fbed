//! A transaction with the events it causes.

use std::ops::Deref;

use api::id::AppId;
use pg::types::Json;
use serde::Serialize;

use crate::error::Result;

/// Held while event ids are given, to the end of the transaction: ids become visible in order.
const EVENT_LOCK: i64 = 0x0066_6c79_6e65;

/// A controller that holds it and does nothing more is given up by the database after this.
const EVENT_PATIENCE: &str = "5s";

struct NewEvent {
    app: Option<AppId>,
    object_type: &'static str,
    object_id: String,
    data: serde_json::Value,
}

/// A transaction. Dropped, it changes nothing.
pub(crate) struct Tx<'a> {
    inner: pg::Transaction<'a>,
    events: Vec<NewEvent>,
}

impl<'a> Deref for Tx<'a> {
    type Target = pg::Transaction<'a>;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl<'a> Tx<'a> {
    /// Begins.
    pub(crate) async fn begin(client: &'a mut pg::Client) -> Result<Self> {
        let inner = client.transaction().await.map_err(pg::Error::from)?;
        Ok(Self { inner, events: Vec::new() })
    }

    /// Something that will have happened when this commits. `data` must hold no secret: events are kept for ever.
    pub(crate) fn event(
        &mut self,
        app: impl Into<Option<AppId>>,
        object_type: &'static str,
        object_id: impl ToString,
        data: &impl Serialize,
    ) {
        let data = serde_json::to_value(data).expect("wire types serialise");
        let data = super::stored_json(data);
        let object_id = super::stored(&object_id.to_string()).into_owned();
        self.events.push(NewEvent { app: app.into(), object_type, object_id, data });
    }

    /// Commits, giving the events their ids last thing.
    pub(crate) async fn commit(self) -> Result<()> {
        let Self { inner, events } = self;
        if !events.is_empty() {
            let patience = "SELECT set_config('idle_in_transaction_session_timeout', $1, true)";
            pg::execute(&inner, patience, &[&EVENT_PATIENCE]).await?;
            pg::execute(&inner, "SELECT pg_advisory_xact_lock($1)", &[&EVENT_LOCK]).await?;
            insert(&inner, &events).await?;
        }
        inner.commit().await.map_err(pg::Error::from)?;
        Ok(())
    }
}

/// All at once, in their order: everybody else waits meanwhile.
async fn insert(tx: &pg::Transaction<'_>, events: &[NewEvent]) -> Result<()> {
    let apps: Vec<_> = events.iter().map(|event| event.app.map(AppId::uuid)).collect();
    let types: Vec<_> = events.iter().map(|event| event.object_type).collect();
    let objects: Vec<_> = events.iter().map(|event| event.object_id.as_str()).collect();
    let data: Vec<_> = events.iter().map(|event| Json(&event.data)).collect();
    let sql = "WITH new AS (SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::jsonb[]) \
             WITH ORDINALITY AS new (app, kind, object, data, at) ORDER BY at), \
         inserted AS (INSERT INTO events \
             (event_id, app_id, object_type, object_id, data, created_at) \
             SELECT nextval('event_ids'), app, kind, object, data, clock_timestamp() FROM new) \
         SELECT pg_notify('events', '')";
    pg::execute(tx, sql, &[&apps, &types, &objects, &data]).await?;
    Ok(())
}
