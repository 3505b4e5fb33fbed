//! `GET /usage`.

use api::usage::Usage;
use axum::{Json, extract::State};

use super::Answer;
use crate::{server::Controller, usage};

pub(crate) async fn list(State(controller): State<Controller>) -> Answer<Vec<Usage>> {
    Ok(Json(usage::list(&controller).await?))
}
