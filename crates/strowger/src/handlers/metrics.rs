//! `GET /metrics`.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use daemon::ApiError;
use http::header::CONTENT_TYPE;

use crate::{metrics, routes::Api};

/// What Prometheus reads best, and others read as well.
const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What was counted, and what there is. Apps have names in it, so it needs the key.
pub(crate) async fn show(State(api): State<Api>) -> Result<Response, ApiError> {
    let live = api.live.clone();
    let text = tokio::task::spawn_blocking(move || metrics::text(&live)).await;
    let text = text.map_err(|err| ApiError::internal("telling what was counted", &err))?;
    let text = text.map_err(|err| ApiError::internal("telling what was counted", &err))?;
    Ok(([(CONTENT_TYPE, KIND)], text).into_response())
}
