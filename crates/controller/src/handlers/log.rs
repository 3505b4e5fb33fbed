//! `GET /apps/:app/log`.

use axum::{
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use daemon::Query;
use http::{HeaderValue, header};
use serde::Deserialize;

use super::jobs::job_part;
use crate::{
    error::{Error, Result},
    logs::{self, Wanted},
    server::Controller,
    store,
};

/// Most lines that can be asked for.
const MOST: u32 = 10_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LogQuery {
    job_id: Option<String>,
    process_type: Option<String>,
    lines: Option<u32>,
    follow: Option<String>,
}

/// The lines of an app's jobs, as newline-delimited JSON.
pub(crate) async fn log(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response> {
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    let mut jobs = store::jobs::of_app(&client, app.id).await?;
    drop(client);
    if let Some(id) = &query.job_id {
        let job = job_part(id)?;
        jobs.retain(|known| known.uuid == job);
        if jobs.is_empty() {
            return Err(Error::missing("job", id));
        }
    }
    let wanted = Wanted {
        app: app.id,
        job: jobs.first().filter(|_| query.job_id.is_some()).map(|job| job.uuid),
        kind: query.process_type,
        lines: query.lines.unwrap_or(MOST).min(MOST),
    };
    jobs.retain(|job| wanted.includes(job));
    let follow = query.follow.is_some_and(|follow| follow != "false");
    let body = if follow {
        Body::from_stream(logs::follow(&controller, wanted, jobs))
    } else {
        let lines = logs::collect(&controller, &wanted, &jobs).await;
        Body::from(lines.iter().flat_map(logs::encode).collect::<Vec<u8>>())
    };
    let mut response = body.into_response();
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
