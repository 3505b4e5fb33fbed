use std::{io, sync::Arc};

use api::{
    controller::LogLine,
    host::META_TYPE,
    id::{ClusterJobId, JobId},
};
use axum::{
    body::{Body, Bytes},
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use daemon::ApiError;
use futures_util::{StreamExt, stream};
use http::header;
use serde::Deserialize;
use tokio::sync::watch;

use super::job_id;
use crate::{
    jobs::{
        output::{Output, Progress},
        registry::log_folder,
    },
    logs::{Reader, Record},
    routes::App,
};

#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    lines: Option<u64>,
    #[serde(default)]
    follow: bool,
}

/// Newline-delimited JSON: the last lines, and with `follow` what comes until the job ends.
pub(crate) async fn log(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, ApiError> {
    let id = job_id(&id)?;
    let active = app.host.registry.job(id);
    let folder = log_folder(&app.host.folders.logs(), id);
    if active.is_none() && !folder.is_dir() {
        return Err(ApiError::not_found(format!(
            "this host knows no job {id} and has no log of it"
        )));
    }
    let kind = active.and_then(|active| active.job.metadata.get(META_TYPE).cloned());
    let output = app.host.registry.output(id);
    let output = output.unwrap_or_else(|| Arc::new(Output::ended(None)));
    let first = match wanted.lines {
        None => 1,
        Some(lines) => last_line(&folder).await?.saturating_sub(lines) + 1,
    };
    let reading = Reading {
        reader: Reader::new(&folder, first),
        progress: output.progress(),
        follow: wanted.follow,
        host_id: app.host.settings.id.clone(),
        job: id,
        kind: kind.unwrap_or_default(),
    };
    let lines = stream::try_unfold(reading, Reading::next);
    let lines = lines.take_until(app.host.lifetime.stop().cancelled_owned());
    let body = Body::from_stream(lines);
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, body).into_response())
}

async fn last_line(folder: &std::path::Path) -> Result<u64, ApiError> {
    let folder = folder.to_owned();
    let last = tokio::task::spawn_blocking(move || crate::logs::last_line(&folder)).await;
    let last = last.map_err(io::Error::other).and_then(|last| last);
    last.map_err(|err| ApiError::internal("reading the log", &err))
}

struct Reading {
    reader: Reader,
    progress: watch::Receiver<Progress>,
    follow: bool,
    host_id: String,
    job: JobId,
    kind: String,
}

impl Reading {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        loop {
            // Looked at first: what is written after it nudges again.
            let complete = self.progress.borrow_and_update().complete;
            let mut reader = self.reader;
            let (reader, records) = tokio::task::spawn_blocking(move || {
                let records = reader.read();
                (reader, records)
            })
            .await
            .map_err(io::Error::other)?;
            self.reader = reader;
            let records = records?;
            if !records.is_empty() {
                let lines = self.lines(records)?;
                return Ok(Some((lines, self)));
            }
            if !self.follow || complete || self.progress.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    fn lines(&self, records: Vec<Record>) -> io::Result<Bytes> {
        let job_id = ClusterJobId { host: self.host_id.clone(), job: self.job }.to_string();
        let mut lines = Vec::new();
        for record in records {
            let stream = record.out().name().to_owned();
            let line = LogLine {
                host_id: self.host_id.clone(),
                job_id: job_id.clone(),
                process_type: self.kind.clone(),
                stream,
                msg: record.text,
                timestamp: record.at,
            };
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
        }
        Ok(lines.into())
    }
}
