//! An app's log, out of the logs its hosts keep. What runs now comes first wherever there is a limit.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::{
    controller::{Job, LogLine},
    id::{AppId, JobId},
};
use futures_util::{Stream, StreamExt, pin_mut, stream, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

use crate::{
    domain::tail::{Again, Seen, Tail},
    error::{Error, Result},
    events::Told,
    server::Controller,
    store::{self, events::Filter},
};

/// Jobs whose logs are read.
pub(crate) const JOBS: u32 = 500;
/// Jobs that are followed at a time; further ones are when some of them have ended.
const FOLLOWED: usize = 500;
/// Jobs of which it is remembered that they were followed.
const REMEMBERED: usize = 10_000;
/// Hosts asked at a time.
const AT_ONCE: usize = 8;
/// Longest time one job's log may take.
const JOB_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest time all of them may take.
const TIMEOUT: Duration = Duration::from_secs(45);
/// Most bytes of lines kept for one answer.
const BYTES: usize = 32 << 20;
/// Last lines of a job asked for again when its host is connected to again.
const AGAIN: u32 = 10_000;
/// Pause before a host that is lost is asked again; doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Lines on their way to a client that follows.
const WINDOW: usize = 256;

/// Which lines.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Of this app.
    pub(crate) app: AppId,
    /// Of this job alone.
    pub(crate) job: Option<JobId>,
    /// Of this process type alone.
    pub(crate) kind: Option<String>,
    /// Of these streams; of all if empty.
    pub(crate) streams: Vec<String>,
    /// Last lines.
    pub(crate) lines: u32,
}

impl Wanted {
    fn includes(&self, job: &Job) -> bool {
        job.host_id.is_some()
            && self.job.is_none_or(|wanted| wanted == job.uuid)
            && self.kind.as_ref().is_none_or(|kind| *kind == job.kind)
    }

    fn includes_line(&self, line: &LogLine) -> bool {
        self.streams.is_empty() || self.streams.contains(&line.stream)
    }
}

/// How far each job's log was read, for those that could be read to their end.
type Read = BTreeMap<JobId, Option<Seen>>;

/// The last lines there are, oldest first, and how far each log was read. A host that cannot be asked is left out.
pub(crate) async fn collect(
    controller: &Controller,
    wanted: &Wanted,
    jobs: &[Job],
) -> (impl Iterator<Item = LogLine> + Send + use<>, Read) {
    let most = usize::try_from(wanted.lines).unwrap_or(usize::MAX);
    let tail = Mutex::new(Tail::new(most, BYTES));
    let deadline = Instant::now() + TIMEOUT;
    let all = stream::iter(jobs.iter().cloned().enumerate()).map(|(log, job)| {
        let tail = &tail;
        async move {
            let read = read_end(controller, wanted, log, &job, tail);
            (job.uuid, timeout(JOB_TIMEOUT, read).await.ok().flatten())
        }
    });
    let mut all = Box::pin(all.buffer_unordered(AT_ONCE));
    let mut read = Read::new();
    while let Ok(Some((job, seen))) = timeout_at(deadline, all.next()).await {
        read.extend(seen.map(|seen| (job, seen)));
    }
    drop(all);
    let tail = tail.into_inner().unwrap_or_else(PoisonError::into_inner);
    (tail.into_lines(), read)
}

/// Reads the end of one job's log into the tail. `None`: it could not be read to its end.
async fn read_end(
    controller: &Controller,
    wanted: &Wanted,
    log: usize,
    job: &Job,
    tail: &Mutex<Tail>,
) -> Option<Option<Seen>> {
    let host = controller.neighbours.host(job.host_id.as_deref()?).ok()?;
    let lines = match host.log(job.uuid, Some(wanted.lines), false).await {
        Ok(lines) => lines,
        Err(err) if err.is_not_found() => return Some(None),
        Err(_) => return None,
    };
    pin_mut!(lines);
    let mut seen = None;
    let mut at = Timestamp::MIN;
    let mut number = 0;
    while let Some(line) = lines.next().await {
        let line = line.ok()?;
        seen = Some(Seen::and(seen, line.timestamp));
        at = at.max(line.timestamp);
        number += 1;
        if wanted.includes_line(&line) {
            tail.lock().unwrap_or_else(PoisonError::into_inner).push(log, number, at, line);
        }
    }
    Some(seen)
}

/// The last lines, then what comes, from jobs that are there and that come. Ends with the client, or with the only job asked
/// for.
pub(crate) fn follow(
    controller: &Controller,
    wanted: Wanted,
    jobs: Vec<Job>,
) -> impl Stream<Item = LogLine> + Send + use<> {
    let (lines, receiver) = mpsc::channel::<LogLine>(WINDOW);
    let following = controller.clone();
    controller.lifetime.spawn_request(async move {
        let closed = lines.clone();
        tokio::select! {
            () = closed.closed() => {}
            followed = follow_all(&following, &wanted, jobs, lines) => if let Err(err) = followed {
                debug!(error = &err as &dyn std::error::Error, "a log cannot be followed");
            }
        }
    });
    ReceiverStream::new(receiver)
}

async fn follow_all(
    controller: &Controller,
    wanted: &Wanted,
    jobs: Vec<Job>,
    lines: mpsc::Sender<LogLine>,
) -> Result<()> {
    let filter = Filter { app: Some(wanted.app), types: vec!["job".into()], ..Filter::default() };
    let events = controller.events.after(controller.events.last().await?, filter)?;
    pin_mut!(events);
    let began = Timestamp::now();
    let (backlog, read) = collect(controller, wanted, &jobs).await;
    for line in backlog {
        if lines.send(line).await.is_err() {
            return Ok(());
        }
    }
    let mut known = Known::default();
    let mut pumps = FuturesUnordered::new();
    for job in jobs {
        known.add(job.uuid);
        let seen = match read.get(&job.uuid) {
            // All it will ever say has been told.
            Some(_) if job.state.is_over() => continue,
            Some(seen) => *seen,
            // Its host was away: what it said before is not known, and would come after newer lines of others.
            None => Some(Seen::since(began)),
        };
        pumps.push(pump(controller, job, seen, wanted, &lines));
    }
    loop {
        if wanted.job.is_some() && pumps.is_empty() {
            return Ok(());
        }
        tokio::select! {
            Some(()) = pumps.next() => {}
            told = events.next() => {
                let Some(told) = told else { return Ok(()) };
                let Some(job) = job_of(&told).filter(|job| wanted.includes(job)) else { continue };
                if pumps.len() < FOLLOWED && known.add(job.uuid) {
                    // It began while somebody followed: all it says is new.
                    pumps.push(pump(controller, job, None, wanted, &lines));
                }
            }
        }
    }
}

fn job_of(told: &Arc<Told>) -> Option<Job> {
    serde_json::from_value(told.event.data.clone()).ok()
}

/// Jobs that are or were followed, the last ones.
#[derive(Debug, Default)]
struct Known {
    jobs: BTreeSet<JobId>,
    order: VecDeque<JobId>,
}

impl Known {
    /// Whether it is a new one.
    fn add(&mut self, job: JobId) -> bool {
        if !self.jobs.insert(job) {
            return false;
        }
        self.order.push_back(job);
        if self.order.len() > REMEMBERED
            && let Some(old) = self.order.pop_front()
        {
            self.jobs.remove(&old);
        }
        true
    }
}

/// Sends the lines of a job as they come, until it is over and has said all. A host that is lost is asked again, however
/// long it is away: it may come back.
async fn pump(
    controller: &Controller,
    job: Job,
    mut seen: Option<Seen>,
    wanted: &Wanted,
    lines: &mpsc::Sender<LogLine>,
) {
    let mut pause = PAUSE;
    loop {
        let before = seen;
        // Whether it is over is asked before its log is read to the end: what is over then says no more.
        let over = is_over(controller, &job).await;
        let complete = pump_once(controller, &job, &mut seen, wanted, lines).await;
        if (complete && (over || is_over(controller, &job).await)) || lines.is_closed() {
            return;
        }
        pause = if seen == before { (pause * 2).min(LONGEST_PAUSE) } else { PAUSE };
        if over && !complete && pause == LONGEST_PAUSE {
            // It ended, and its host has been away for a while.
            return;
        }
        sleep(pause).await;
    }
}

/// Whether a job has ended, as far as the controller was told.
async fn is_over(controller: &Controller, job: &Job) -> bool {
    let known =
        async { store::jobs::find(&controller.db.client().await?, job.app, job.uuid).await };
    match known.await {
        Ok(job) => job.state.is_over(),
        Err(Error::Missing { .. }) => true,
        Err(_) => false,
    }
}

/// One connection. Answers whether the host said all there was to say.
async fn pump_once(
    controller: &Controller,
    job: &Job,
    seen: &mut Option<Seen>,
    wanted: &Wanted,
    lines: &mpsc::Sender<LogLine>,
) -> bool {
    let host = job.host_id.as_deref().map(|host| controller.neighbours.host(host));
    let Some(Ok(host)) = host else { return false };
    let again = seen.map(|_| AGAIN);
    let log = match host.log(job.uuid, again, true).await {
        Ok(log) => log,
        Err(err) => {
            let error = &err as &dyn std::error::Error;
            debug!(error, job.id = %job.id, "a log cannot be followed at the moment");
            return err.is_not_found();
        }
    };
    pin_mut!(log);
    let mut told = Again::after(*seen);
    while let Some(line) = log.next().await {
        let Ok(line) = line else { return false };
        if !told.is_new(line.timestamp) {
            continue;
        }
        *seen = Some(Seen::and(*seen, line.timestamp));
        if wanted.includes_line(&line) && lines.send(line).await.is_err() {
            return true;
        }
    }
    true
}
