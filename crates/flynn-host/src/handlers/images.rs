use std::time::Duration;

use api::{error::ErrorCode, validate::is_image_name};
use axum::{
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use daemon::ApiError;
use futures_util::{StreamExt, TryStreamExt};
use http::header;
use tokio::time::timeout;

use crate::{backend::engine::EngineError, routes::App};

/// How long a host that wants an image waits while others are served.
const PATIENCE: Duration = Duration::from_secs(60);

/// An image as the engine packs it, with its name, for a host that lacks it.
pub(crate) async fn image(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    if !is_image_name(&name) {
        return Err(ApiError::invalid("name", "is not an image's"));
    }
    let engine = &app.host.engine;
    match engine.image(&name).await {
        Err(EngineError::NoImage(_)) => {
            return Err(ApiError::not_found(format!("this host has no image {name}")));
        }
        Err(err) => return Err(ApiError::internal("looking up the image", &err)),
        Ok(_) => {}
    }
    let turn = timeout(PATIENCE, app.host.exports.clone().acquire_owned()).await;
    let Ok(Ok(turn)) = turn else {
        let message = "this host gives images to others at present; try again";
        return Err(ApiError::new(ErrorCode::Ratelimited, message));
    };
    // Whoever reads has the turn until the end.
    let pieces = engine.export(&name).inspect_ok(move |_| _ = &turn);
    let pieces = pieces.take_until(app.host.lifetime.stop().cancelled_owned());
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(pieces)).into_response())
}
