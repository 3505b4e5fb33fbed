//! An app's log, out of the logs its hosts keep.

use std::{collections::BTreeMap, time::Duration};

use api::{
    controller::{Job, LogLine},
    id::{AppId, JobId},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, future, pin_mut, stream, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

use crate::{server::Controller, store::events::Filter};

/// Jobs whose logs are read, the newest.
const JOBS: usize = 100;
/// Hosts asked at a time.
const AT_ONCE: usize = 8;
/// Longest time one job's log may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Times a host that is lost is asked again.
const ATTEMPTS: u32 = 30;
/// Pause before it is.
const PAUSE: Duration = Duration::from_secs(1);
/// Lines on their way to a client that follows.
const WINDOW: usize = 256;

/// Which lines.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) app: AppId,
    pub(crate) job: Option<JobId>,
    pub(crate) kind: Option<String>,
    pub(crate) lines: u32,
}

impl Wanted {
    /// Whether a job's lines are among them.
    pub(crate) fn includes(&self, job: &Job) -> bool {
        job.host_id.is_some()
            && self.job.is_none_or(|wanted| wanted == job.uuid)
            && self.kind.as_ref().is_none_or(|kind| *kind == job.kind)
    }
}

/// A line with its end.
pub(crate) fn encode(line: &LogLine) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).expect("wire types serialise");
    bytes.push(b'\n');
    bytes
}

/// The last lines there are, oldest first. A host that cannot be asked is left out.
pub(crate) async fn collect(
    controller: &Controller,
    wanted: &Wanted,
    jobs: &[Job],
) -> Vec<LogLine> {
    let newest: Vec<Job> = jobs.iter().take(JOBS).cloned().collect();
    let of_jobs = stream::iter(newest).map(|job| one(controller.clone(), job, wanted.lines));
    let mut lines = of_jobs.buffer_unordered(AT_ONCE).concat().await;
    lines.sort_by_key(|line| line.timestamp);
    let most = usize::try_from(wanted.lines).unwrap_or(usize::MAX);
    lines.drain(..lines.len().saturating_sub(most));
    lines
}

async fn one(controller: Controller, job: Job, lines: u32) -> Vec<LogLine> {
    let read = async {
        let host = controller.neighbours.host(job.host_id.as_deref()?).ok()?;
        let lines = host.log(job.uuid, Some(lines), false).await.ok()?;
        Some(lines.filter_map(|line| future::ready(line.ok())).collect::<Vec<_>>().await)
    };
    timeout(TIMEOUT, read).await.ok().flatten().unwrap_or_default()
}

/// The last lines, then what comes, from jobs that are there and that come. Ends with the client.
pub(crate) fn follow(
    controller: &Controller,
    wanted: Wanted,
    jobs: Vec<Job>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + use<> {
    let (lines, receiver) = mpsc::channel::<LogLine>(WINDOW);
    let following = controller.clone();
    controller.lifetime.spawn_request(async move {
        let closed = lines.clone();
        tokio::select! {
            () = closed.closed() => {}
            () = pump_all(&following, &wanted, jobs, lines) => {}
        }
    });
    ReceiverStream::new(receiver).map(|line| Ok(encode(&line).into()))
}

async fn pump_all(
    controller: &Controller,
    wanted: &Wanted,
    jobs: Vec<Job>,
    lines: mpsc::Sender<LogLine>,
) {
    let Ok(last) = controller.events.last().await else { return };
    let backlog = collect(controller, wanted, &jobs).await;
    let mut told: BTreeMap<String, Timestamp> = BTreeMap::new();
    for line in backlog {
        told.insert(line.job_id.clone(), line.timestamp);
        if lines.send(line).await.is_err() {
            return;
        }
    }
    let filter = Filter { app: Some(wanted.app), types: vec!["job".into()], ..Filter::default() };
    let events = controller.events.after(last, filter);
    pin_mut!(events);
    let mut followed: Vec<JobId> = Vec::new();
    let mut pumps = FuturesUnordered::new();
    for job in jobs.into_iter().take(JOBS) {
        let since = told.get(&job.id).copied();
        followed.push(job.uuid);
        pumps.push(pump(controller, job, since, Some(wanted.lines), &lines));
    }
    loop {
        tokio::select! {
            Some(()) = pumps.next() => {
                // The only job asked for has said all.
                if wanted.job.is_some() && pumps.is_empty() {
                    return;
                }
            }
            event = events.next() => {
                let Some(event) = event else { return };
                let Ok(job) = serde_json::from_value::<Job>(event.data) else { continue };
                if wanted.includes(&job) && !followed.contains(&job.uuid) {
                    followed.push(job.uuid);
                    // It begins while somebody follows: all it says is new.
                    pumps.push(pump(controller, job, None, None, &lines));
                }
            }
        }
    }
}

/// Sends the lines of a job as they come, until it has ended. `told` was told already. A host that is lost is asked again:
/// its flynn-host may be restarting.
async fn pump(
    controller: &Controller,
    job: Job,
    mut told: Option<Timestamp>,
    wanted: Option<u32>,
    lines: &mpsc::Sender<LogLine>,
) {
    for _ in 0..ATTEMPTS {
        match pump_once(controller, &job, &mut told, wanted, lines).await {
            Ok(()) => return,
            Err(()) => sleep(PAUSE).await,
        }
    }
}

/// One connection. `Err` if it was lost.
async fn pump_once(
    controller: &Controller,
    job: &Job,
    told: &mut Option<Timestamp>,
    wanted: Option<u32>,
    lines: &mpsc::Sender<LogLine>,
) -> Result<(), ()> {
    let host = job.host_id.as_deref().map(|host| controller.neighbours.host(host));
    let host = host.ok_or(())?.map_err(drop)?;
    let log = match host.log(job.uuid, wanted, true).await {
        Ok(log) => log,
        Err(err) if err.is_not_found() => return Ok(()),
        Err(err) => {
            let error = &err as &dyn std::error::Error;
            debug!(error, job.id = %job.id, "a log cannot be followed at the moment");
            return Err(());
        }
    };
    pin_mut!(log);
    // Several lines may have one time: what this connection has told is no measure for it.
    let since = *told;
    while let Some(line) = log.next().await {
        let line = line.map_err(drop)?;
        if since.is_some_and(|since| line.timestamp <= since) {
            continue;
        }
        *told = Some(line.timestamp);
        if lines.send(line).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
