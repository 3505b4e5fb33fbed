//! `POST /apps/:app/jobs`: one-off jobs.

use api::controller::NewJob;
use axum::{
    Json,
    extract::{FromRequest, Path, Request, State},
    response::IntoResponse,
};
use daemon::ApiError;
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;

use super::form::Formed;
use crate::{attached, one_off, server::Controller};

/// Starts a one-off job: attached, if the request asks for that upgrade.
pub(crate) async fn run(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    mut request: Request,
) -> Result<axum::response::Response, ApiError> {
    let upgrade = request.headers().get(header::UPGRADE);
    let attach = upgrade.is_some_and(|protocol| protocol == attach::PROTOCOL);
    let upgrade = attach.then(|| hyper::upgrade::on(&mut request));
    let Formed(new) = Formed::<NewJob>::from_request(request, &()).await?;
    let planned = one_off::plan(&controller, &app, &new, attach).await?;
    let Some(upgrade) = upgrade else {
        let job = one_off::start(&controller, planned).await?;
        return Ok(Json(job).into_response());
    };
    let running = one_off::start_attached(&controller, planned, new).await?;
    controller.lifetime.spawn_request(async move {
        match upgrade.await {
            Ok(client) => attached::relay(TokioIo::new(client), running).await,
            Err(err) => tracing::debug!(error = %err, "a client did not wait for its job"),
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(attach::PROTOCOL));
    Ok(response)
}
