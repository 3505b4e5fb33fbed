//! `GET /apps/:app/log`.

use api::{controller::LogLine, id::AppId};
use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use daemon::Query;
use futures_util::{Stream, StreamExt, future::Either, stream};
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};

use super::{jobs::job_part, page::flag};
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
    stream_types: Option<String>,
    lines: Option<u32>,
    #[serde(deserialize_with = "flag")]
    follow: bool,
}

impl LogQuery {
    fn wanted(self, app: AppId) -> Result<Wanted> {
        let job = self.job_id.as_deref().filter(|id| !id.is_empty()).map(job_part).transpose()?;
        let streams = self.stream_types.as_deref().unwrap_or_default();
        let streams: Vec<String> =
            streams.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let known = |name: &&String| !["stdout", "stderr", "init"].contains(&name.as_str());
        if let Some(unknown) = streams.iter().find(known) {
            let message = format!("must be of stdout, stderr, init; {unknown:?} is none");
            return Err(Error::invalid("stream_types", message));
        }
        let lines = self.lines.unwrap_or(MOST).min(MOST);
        Ok(Wanted { app, job, kind: self.process_type, streams, lines })
    }
}

/// The lines of an app's jobs, as newline-delimited JSON, or as events if the client accepts those.
pub(crate) async fn log(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let follow = query.follow;
    let (wanted, jobs) = {
        let client = controller.db.client().await?;
        let app = store::apps::find(&client, &app).await?;
        let wanted = query.wanted(app.id)?;
        let kind = wanted.kind.as_deref();
        let limit = logs::JOBS.into();
        (wanted.clone(), store::jobs::logged(&client, app.id, kind, wanted.job, limit).await?)
    };
    if let Some(job) = wanted.job.filter(|_| jobs.is_empty()) {
        return Err(Error::missing("job", job));
    }
    let lines = if follow {
        Either::Left(logs::follow(&controller, wanted, jobs))
    } else {
        Either::Right(stream::iter(logs::collect(&controller, &wanted, &jobs).await.0))
    };
    Ok(if daemon::events::wanted(&headers) { as_events(lines) } else { as_lines(lines) })
}

fn as_lines(lines: impl Stream<Item = LogLine> + Send + 'static) -> Response {
    let encode = |line: LogLine| {
        let mut bytes = serde_json::to_vec(&line).expect("wire types serialise");
        bytes.push(b'\n');
        Ok::<_, std::convert::Infallible>(Bytes::from(bytes))
    };
    let mut response = Body::from_stream(lines.map(encode)).into_response();
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// What the later clients read: each line in an event, and one that says that there are no more.
#[derive(Debug, Serialize)]
#[serde(tag = "event", content = "data", rename_all = "lowercase")]
enum LogEvent {
    Message(LogLine),
    Eof,
}

fn as_events(lines: impl Stream<Item = LogLine> + Send + 'static) -> Response {
    let lines = lines.map(LogEvent::Message);
    daemon::events::response(lines.chain(stream::iter([LogEvent::Eof])))
}
