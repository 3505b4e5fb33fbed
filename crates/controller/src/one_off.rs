//! Starting one-off jobs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use api::{
    cluster::Tx as ClusterTx,
    controller::{App, Artifact, Job, JobState, NewJob, ONE_OFF_SECONDS_MAX, Release},
    discoverd::Term,
    expand::{ExpandError, one_off_job},
    host::{ATTACH_STDERR, ATTACH_STDIN, ATTACH_STDOUT, ATTACH_STREAM, AttachRequest, EndReason},
    id::{JobId, ReleaseId},
};
use api_client::Upgraded;
use attach::State;
use daemon::Lifetime;
use host_client::{CommitError, Host};
use jiff::Timestamp;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::{
    domain::{place, release},
    error::{Error, Result},
    orphans::Attachment,
    server::Controller,
    store::{self, Tx},
};

/// Longest time until a started job says that it runs: its image or slug may have to be fetched.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// Longest time a host may take to say that it will attach: a client that has gone is not noticed before.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);
/// The same while another host can be asked.
const ATTACH_HASTY_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest time in which a host is chosen: after it no other is asked to attach.
const CHOICE_TIMEOUT: Duration = Duration::from_secs(60);
/// Rounds over the hosts, when the cluster changes while one is chosen.
const ROUNDS: u32 = 5;

/// A one-off job, ready to be placed.
#[derive(Debug)]
pub(crate) struct Planned {
    app: App,
    release: ReleaseId,
    job: api::host::Job,
}

/// Works out what to run.
pub(crate) async fn plan(
    controller: &Controller,
    app: &str,
    new: &NewJob,
    attached: bool,
) -> Result<Planned> {
    release::check_env("env", &new.env)?;
    if new.timeout_seconds.is_some_and(|seconds| !(1..=ONE_OFF_SECONDS_MAX).contains(&seconds)) {
        let message = format!("must be from 1 to {ONE_OFF_SECONDS_MAX} (30 days)");
        return Err(Error::invalid("timeout_seconds", message));
    }
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, app).await?;
    store::apps::check_stays(&client, app.id).await?;
    let release = release_of(&client, &app, new).await?;
    let wanted = if new.artifacts.is_empty() { &release.artifacts } else { &new.artifacts };
    let artifacts: Vec<Artifact> = store::artifacts::in_order(&client, wanted).await?;
    if artifacts.len() != wanted.len() {
        return Err(Error::invalid("artifacts", "names an artifact that does not exist"));
    }
    let job =
        one_off_job(JobId::random(), &app, &release, &artifacts, new, attached).map_err(|err| {
            match err {
                ExpandError::ReservedMeta(_) => Error::invalid("meta", err.to_string()),
                _ => Error::invalid("artifacts", format!("cannot be run: {err}")),
            }
        })?;
    Ok(Planned { release: release.id, app, job })
}

/// The release asked for, the current one, or, for a job that brings its own artifacts, none.
async fn release_of(client: &pg::Client, app: &App, new: &NewJob) -> Result<Release> {
    if let Some(id) = new.release.or(app.release) {
        let release = store::releases::find(client, id).await?;
        if release.app_id.is_some_and(|owner| owner != app.id) {
            return Err(Error::invalid("release", "is one of another app"));
        }
        return Ok(release);
    }
    if new.artifacts.is_empty() {
        let message =
            format!("is missing: {} has none yet; push or deploy something first", app.name);
        return Err(Error::invalid("release", message));
    }
    Ok(Release {
        id: Uuid::nil().into(),
        app_id: Some(app.id),
        artifacts: Vec::new(),
        env: BTreeMap::new(),
        meta: BTreeMap::new(),
        processes: BTreeMap::new(),
        created_at: Timestamp::UNIX_EPOCH,
    })
}

/// Starts a job and leaves it to itself. It is recorded before it is ordered: a deletion of its app that begins meanwhile
/// stops it, also if nobody hears whether it was taken.
pub(crate) async fn start(controller: &Controller, planned: Planned) -> Result<Job> {
    let started = start_on_some_host(controller, &planned).await;
    if let Err(err) = &started
        && let Err(not_noted) = give_up(controller, planned.job.id, err).await
    {
        let error = &not_noted as &dyn std::error::Error;
        warn!(error, job.id = %planned.job.id, "that a job did not start is not recorded");
    }
    started
}

async fn start_on_some_host(controller: &Controller, planned: &Planned) -> Result<Job> {
    for _ in 0..ROUNDS {
        let (term, hosts) = hosts(controller, planned).await?;
        for host in hosts {
            let recorded = record(controller, planned, &host, false).await?;
            match commit(controller, planned, &host, term).await {
                Ok(true) => return Ok(as_known_now(controller, recorded).await),
                Ok(false) => {}
                Err(err) => {
                    discard(controller, planned.job.id, &host, &err).await;
                    return Err(err);
                }
            }
        }
    }
    Err(no_room())
}

/// Its host may have told of it since it was recorded. That it was started is true also if the database cannot say more.
async fn as_known_now(controller: &Controller, recorded: Job) -> Job {
    let known = async {
        let client = controller.db.client().await?;
        store::jobs::find(&client, recorded.app, recorded.uuid).await
    };
    known.await.unwrap_or(recorded)
}

/// Stops a job whose requester is told that there is none: perhaps it was taken all the same.
async fn discard(controller: &Controller, id: JobId, host: &str, why: &Error) {
    let stopped = match controller.neighbours.host(host) {
        Ok(host) => host.stop_job(id).await.map_err(Error::neighbour("stopping the job")),
        Err(err) => Err(err),
    };
    match stopped {
        Ok(()) => info!(job.id = %id, "stopped job {id}: {why}"),
        // It was not taken. What was taken and cannot be stopped now is recorded once its host tells of it.
        Err(err) => {
            debug!(error = &err as &dyn std::error::Error, job.id = %id, "job {id} is not stopped at {host}")
        }
    }
}

/// A running job with a connection to it. Dropped, it stops the job, unless the job has ended.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) connection: Option<Upgraded>,
    pub(crate) ended: bool,
    id: JobId,
    host: Host,
    lifetime: Lifetime,
    /// While there is this, the job has a client.
    _attachment: Arc<Attachment>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (host, id) = (self.host.clone(), self.id);
        self.lifetime.spawn_drained(async move {
            info!(job.id = %id, "stopping job {id}: its client is gone");
            match host.stop_job(id).await {
                Err(err) if !err.is_not_found() => {
                    warn!(error = &err as &dyn std::error::Error, job.id = %id, "job {id} was not stopped");
                }
                _ => {}
            }
        });
    }
}

/// Starts a job with a client, and waits until it runs. A client that goes before stops it.
pub(crate) async fn start_attached(
    controller: &Controller,
    planned: Planned,
    new: NewJob,
) -> Result<Attached> {
    let (mut answer, answered) = oneshot::channel();
    let starting = controller.clone();
    let attachment = Arc::new(controller.attachments.begin(planned.job.id));
    // Work of its own: were it dropped with the request in the middle of the commit, nobody would know of the job.
    controller.lifetime.spawn_drained(async move {
        let running = match begin_attached(&starting, planned, &new, attachment).await {
            Ok(mut attached) => tokio::select! {
                () = answer.closed() => return,
                () = starting.attachments.until_cut() => return,
                waited = attached.wait() => waited.map(|()| attached),
            },
            Err(err) => Err(err),
        };
        // If nobody takes it, it is dropped, which stops the job.
        let _ = answer.send(running);
    });
    answered
        .await
        .unwrap_or_else(|_| Err(Error::Away("the controller is stopping; try again".into())))
}

/// Attaches first, so that no output is missed; then commits.
async fn begin_attached(
    controller: &Controller,
    planned: Planned,
    new: &NewJob,
    attachment: Arc<Attachment>,
) -> Result<Attached> {
    let begun = on_some_host(controller, &planned, new, &attachment).await;
    if let Err(err) = &begun
        && let Err(not_noted) = give_up(controller, planned.job.id, err).await
    {
        // Whoever looks after jobs without a client does it later.
        let error = &not_noted as &dyn std::error::Error;
        warn!(error, job.id = %planned.job.id, "that a job did not start is not recorded");
    }
    begun
}

async fn on_some_host(
    controller: &Controller,
    planned: &Planned,
    new: &NewJob,
    attachment: &Arc<Attachment>,
) -> Result<Attached> {
    let end = Instant::now() + CHOICE_TIMEOUT;
    let (mut passed_over, mut failure, mut refused) = (BTreeSet::new(), None, false);
    for _ in 0..ROUNDS {
        let (term, mut hosts) = hosts(controller, planned).await?;
        hosts.retain(|host| !passed_over.contains(host));
        if hosts.is_empty() {
            break;
        }
        let mut left = hosts.len();
        for host_id in hosts {
            if Instant::now() >= end {
                return Err(failure.unwrap_or_else(too_late));
            }
            left -= 1;
            let limit = if left > 0 { ATTACH_HASTY_TIMEOUT } else { ATTACH_TIMEOUT };
            let attached = attach(controller, &host_id, planned.job.id, new, limit).await;
            let (host, connection) = match attached {
                Ok(attached) => attached,
                // Nothing is recorded or ordered there yet, so another host may have the job.
                Err(err) => {
                    let error = &err as &dyn std::error::Error;
                    debug!(error, host.id = %host_id, "the host {host_id} does not attach");
                    passed_over.insert(host_id);
                    failure = Some(err);
                    continue;
                }
            };
            let mut attached = Attached {
                connection: Some(connection),
                ended: true,
                id: planned.job.id,
                host,
                lifetime: controller.lifetime.clone(),
                _attachment: attachment.clone(),
            };
            // Before there is a job: were this controller killed in between, nobody would know that it has no client.
            record(controller, planned, &host_id, true).await?;
            attached.ended = false;
            if commit(controller, planned, &host_id, term).await? {
                return Ok(attached);
            }
            attached.ended = true;
            refused = true;
        }
    }
    // A host that is full is what the user can do something about.
    Err(failure.filter(|_| !refused).unwrap_or_else(no_room))
}

/// Records that a job did not start. If it did after all, its host has the last word.
async fn give_up(controller: &Controller, id: JobId, why: &Error) -> Result<()> {
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    store::jobs::never_started(&mut tx, id, EndReason::Refused, &why.to_string()).await?;
    tx.commit().await
}

fn too_late() -> Error {
    Error::Away(format!("no host took the job within {CHOICE_TIMEOUT:?}; try again"))
}

fn no_room() -> Error {
    Error::Away(
        "no host has room for the job: stop something, or ask for less memory, and try again"
            .into(),
    )
}

/// The hosts to try, and the term they are seen under.
async fn hosts(controller: &Controller, planned: &Planned) -> Result<(Term, Vec<String>)> {
    let state = controller.neighbours.sampi().state().await;
    let state = state.map_err(Error::neighbour("asking the cluster for its hosts"))?;
    if state.hosts.is_empty() {
        return Err(Error::Away("the cluster has no host at the moment; try again".into()));
    }
    let order = place::order(&state, &planned.job);
    let full = place::full(&state);
    if order.is_empty() && !full.is_empty() {
        return Err(Error::Away(format!(
            "no host takes the job: the disk of {} is full; free disk there or add a host",
            full.join(", ")
        )));
    }
    Ok((state.term, order))
}

/// Commits the job to a host. Answers whether the host took it.
async fn commit(
    controller: &Controller,
    planned: &Planned,
    host: &str,
    term: Term,
) -> Result<bool> {
    let add = BTreeMap::from([(host.to_owned(), vec![planned.job.clone()])]);
    let tx = ClusterTx { term, add, ..ClusterTx::default() };
    match controller.neighbours.sampi().commit(&tx).await {
        Ok(committed) if committed.lost.is_empty() => Ok(true),
        Ok(committed) => {
            let reason = committed.lost.into_values().next().unwrap_or_default();
            Err(Error::Away(format!("the host {host} did not start the job: {reason}")))
        }
        Err(CommitError::Rejected(rejected)) => {
            debug!(?rejected, "the host {host} does not take the job");
            Ok(false)
        }
        Err(CommitError::Client(err)) => Err(Error::neighbour("starting the job")(err)),
    }
}

async fn attach(
    controller: &Controller,
    host: &str,
    job_id: JobId,
    new: &NewJob,
    limit: Duration,
) -> Result<(Host, Upgraded)> {
    let host = controller.neighbours.host(host)?;
    let flags = ATTACH_STDOUT | ATTACH_STDERR | ATTACH_STDIN | ATTACH_STREAM;
    let (height, width) = (new.tty_lines, new.tty_columns);
    let request = AttachRequest { job_id, flags, height, width, lines: None };
    let attached = timeout(limit, host.attach(&request)).await;
    let attached = attached
        .map_err(|_| Error::Away("the host of the job does not answer; try again".into()))?;
    Ok((host, attached.map_err(Error::neighbour("attaching to the job"))?))
}

impl Attached {
    /// Waits until frames follow.
    async fn wait(&mut self) -> Result<()> {
        let connection = self.connection.as_mut().expect("it is taken after the wait only");
        let states = async {
            loop {
                match attach::read_state(connection).await {
                    Ok(State::Waiting) => {}
                    Ok(State::Attached) => return Ok(()),
                    Ok(State::Error(text)) => {
                        return Err(Error::Conflict(format!(
                            "the job could not be started: {text}"
                        )));
                    }
                    Err(err) => {
                        return Err(Error::Away(format!("the host of the job was lost: {err}")));
                    }
                }
            }
        };
        timeout(START_TIMEOUT, states).await.map_err(|_| {
            Error::Away(format!("the job did not start within {} s", START_TIMEOUT.as_secs()))
        })?
    }
}

/// Records the job, so that it can be listed, logged and stopped before the scheduler tells of it. Refused if the app is
/// deleted or is being deleted: its deletion either finds the job here, or is seen.
async fn record(
    controller: &Controller,
    planned: &Planned,
    host: &str,
    attached: bool,
) -> Result<Job> {
    let job = Job {
        id: format!("{host}-{}", planned.job.id),
        uuid: planned.job.id,
        host_id: Some(host.into()),
        app: planned.app.id,
        release: planned.release,
        kind: String::new(),
        state: JobState::Starting,
        args: planned.job.config.args.clone(),
        exit_status: None,
        host_error: None,
        end_reason: None,
        run_at: None,
        restarts: 0,
        created_at: None,
        updated_at: None,
    };
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    store::apps::lock(&tx, &job.app.to_string()).await?;
    store::apps::check_stays(&*tx, job.app).await?;
    // It may have been another host's until now.
    let job = store::jobs::put(&mut tx, &job).await?;
    if attached {
        store::jobs::attach(&*tx, &[job.uuid], controller.attach_lease).await?;
    }
    tx.commit().await?;
    Ok(job)
}
