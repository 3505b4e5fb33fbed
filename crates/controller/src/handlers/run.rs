//! `POST /apps/:app/jobs`: one-off jobs.

use api::{controller::NewJob, id::JobId};
use axum::{
    Json,
    extract::{FromRequest, Path, Request, State},
    response::{IntoResponse, Response},
};
use daemon::ApiError;
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::form::Formed;
use crate::{
    attached,
    error::Result,
    one_off::{self, Planned},
    server::Controller,
};

/// Starts a one-off job: attached, if the request asks for that upgrade.
pub(crate) async fn run(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let upgrade = upgrade_of(&mut request);
    // Of this job, too, the daemon waits for the end, from here on.
    let _attaching = upgrade.is_some().then(|| controller.attachments.begin(JobId::random()));
    let Formed(new) = Formed::<NewJob>::from_request(request, &()).await?;
    let planned = one_off::plan(&controller, &app, &new, upgrade.is_some()).await?;
    let Some(upgrade) = upgrade else {
        let starting = controller.clone();
        let job =
            controller.finish(async move { one_off::start(&starting, planned).await }).await?;
        return Ok(Json(job).into_response());
    };
    Ok(attach(&controller, planned, new, upgrade).await?)
}

/// The connection after the answer, if the request asks for attach frames on it.
pub(super) fn upgrade_of(request: &mut Request) -> Option<OnUpgrade> {
    let upgrade = request.headers().get(header::UPGRADE);
    let attach = upgrade.is_some_and(|protocol| protocol == attach::PROTOCOL);
    attach.then(|| hyper::upgrade::on(request))
}

/// Starts a job whose client is at the other end of the connection; answers once it runs.
pub(super) async fn attach(
    controller: &Controller,
    planned: Planned,
    new: NewJob,
    upgrade: OnUpgrade,
) -> Result<Response> {
    let running = one_off::start_attached(controller, planned, new).await?;
    let attachments = controller.attachments.clone();
    // It outlives the request to stop: who is in the middle of a session or a build goes on.
    controller.lifetime.spawn_drained(async move {
        let relayed = async {
            let client = upgrade.await?;
            attached::relay(TokioIo::new(client), running).await;
            Ok::<_, hyper::Error>(())
        };
        let relayed = tokio::select! {
            relayed = relayed => relayed,
            () = attachments.until_cut() => return,
        };
        match relayed {
            Ok(()) => {}
            Err(err) => tracing::debug!(error = %err, "a client did not wait for its job"),
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(attach::PROTOCOL));
    Ok(response)
}
