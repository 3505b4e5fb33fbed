//! `/sinks`: where logs shall go besides.

use api::controller::{NewSink, Sink};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::Body;

use super::{Answer, id};
use crate::{
    error::{Error, Result},
    server::Controller,
    store::{self, Tx},
};

pub(crate) async fn list(State(controller): State<Controller>) -> Answer<Vec<Sink>> {
    Ok(Json(store::sinks::list(&controller.db.client().await?).await?))
}

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path(sink): Path<String>,
) -> Answer<Sink> {
    let sink = id("sink", &sink)?;
    Ok(Json(store::sinks::find(&controller.db.client().await?, sink).await?))
}

/// Stores a sink. Lines are not delivered yet: the answer says so.
pub(crate) async fn create(
    State(controller): State<Controller>,
    Body(new): Body<NewSink>,
) -> Answer<Sink> {
    check(&new)?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let sink = store::sinks::insert(&mut tx, &new).await?;
    tx.commit().await?;
    Ok(Json(sink))
}

fn check(new: &NewSink) -> Result<()> {
    if new.kind != "syslog" {
        return Err(Error::invalid("kind", "must be syslog: logs go nowhere else"));
    }
    let url = new.config.get("url").and_then(serde_json::Value::as_str).unwrap_or_default();
    match url::Url::parse(url) {
        Ok(url) if matches!(url.scheme(), "syslog" | "syslog+tls") && url.has_host() => Ok(()),
        _ => Err(Error::invalid(
            "config",
            "must have a url: syslog://host:port or syslog+tls://host:port",
        )),
    }
}

pub(crate) async fn delete(
    State(controller): State<Controller>,
    Path(sink): Path<String>,
) -> Answer<Sink> {
    let sink = id("sink", &sink)?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let sink = store::sinks::delete(&mut tx, sink).await?;
    tx.commit().await?;
    Ok(Json(sink))
}
