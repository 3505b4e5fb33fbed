//! Turns to build.

use api::controller::{NewTurn, Turn};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::Body;

use super::{Answer, done};
use crate::{
    domain::turn,
    error::{Error, Result},
    server::Controller,
    store,
};

/// Longest id of a build.
const ID_LEN_MAX: usize = 64;

pub(crate) async fn turn(
    State(controller): State<Controller>,
    Path(id): Path<String>,
    Body(new): Body<NewTurn>,
) -> Answer<Turn> {
    check(&id)?;
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &new.app).await?;
    let ahead = store::builds::ahead(&client, &id, app.id).await?;
    Ok(Json(Turn { place: turn::place(ahead, controller.builds_at_once) }))
}

pub(crate) async fn end(
    State(controller): State<Controller>,
    Path(id): Path<String>,
) -> Answer<()> {
    check(&id)?;
    store::builds::remove(&controller.db.client().await?, &id).await?;
    done()
}

fn check(id: &str) -> Result<()> {
    let usable =
        (16..=ID_LEN_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    if usable {
        Ok(())
    } else {
        Err(Error::invalid("id", "must be 16 to 64 random letters and digits"))
    }
}
