//! discoverd, one host with sampi, and a router, all at one address.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use api::{
    blob::Blob,
    cluster::{Capacity, Committed, HostState, State as Cluster, Tx},
    controller::{LogLine, Provisioned},
    discoverd::{Event, EventKind, Instance, Term},
    error::ErrorCode,
    host::{ActiveJob, AttachRequest, EndReason, Job, Status},
    id::JobId,
    route::{NewRoute, Route, Stored},
    volume::HostVolume,
};
use attach::{Frame, FrameCodec, State as Attach, Stream};
use axum::{
    Json, Router,
    extract::{FromRequest, OriginalUri, Path, Query, Request, State},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use daemon::{ApiError, Body, Lifetime};
use futures_util::{SinkExt, StreamExt, stream};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::{io::AsyncWriteExt, net::TcpListener, sync::watch};
use tokio_util::codec::Framed;

pub(crate) const HOST: &str = "host-1";

pub(crate) struct Neighbours {
    pub(crate) addr: SocketAddr,
    lifetime: Lifetime,
    pub(crate) routes: Mutex<Vec<Route>>,
    pub(crate) synced: Mutex<Vec<u64>>,
    /// Jobs the host was given through sampi.
    pub(crate) jobs: watch::Sender<BTreeMap<JobId, Job>>,
    /// Those of them that are over, and why.
    pub(crate) ended: Mutex<BTreeMap<JobId, (Status, EndReason)>>,
    /// What jobs have said.
    pub(crate) logs: watch::Sender<BTreeMap<JobId, Vec<LogLine>>>,
    /// Changes when the followers of a log are cut off.
    pub(crate) cuts: watch::Sender<u32>,
    /// Jobs it was told to stop.
    pub(crate) stopped: watch::Sender<Vec<JobId>>,
    /// What every job wrote.
    pub(crate) lines: Mutex<Vec<String>>,
    /// Volumes of the host.
    pub(crate) volumes: Mutex<Vec<HostVolume>>,
    /// What is in shelf, by path.
    pub(crate) blobs: Mutex<BTreeMap<String, Blob>>,
    /// The hosts that sampi knows.
    pub(crate) hosts: Mutex<Vec<String>>,
    /// Another host that discoverd lists, and its address.
    pub(crate) other_host: Mutex<Option<(String, SocketAddr)>>,
    /// Why the host does not take the jobs of a transaction, if it does not.
    pub(crate) refusal: Mutex<Option<String>>,
    /// Whether jobs do not read their stdin.
    pub(crate) deaf: AtomicBool,
    /// What waits to be let through.
    pub(crate) gate: Gate,
}

/// Where requests of a kind wait while it is shut.
#[derive(Default)]
pub(crate) struct Gate {
    shut: watch::Sender<Option<&'static str>>,
    waiting: watch::Sender<u32>,
}

impl Gate {
    /// Holds every request of this kind from now on.
    pub(crate) fn shut(&self, kind: &'static str) {
        self.waiting.send_replace(0);
        self.shut.send_replace(Some(kind));
    }

    /// Until one waits.
    pub(crate) async fn reached(&self) {
        self.reached_by(1).await;
    }

    /// Waits until at least `count` requests wait at the gate.
    pub(crate) async fn reached_by(&self, count: u32) {
        let mut waiting = self.waiting.subscribe();
        let reached = waiting.wait_for(|waiting| *waiting >= count);
        tokio::time::timeout(testkit::LIMIT, reached).await.unwrap().unwrap();
    }

    /// Lets all through.
    pub(crate) fn open(&self) {
        self.shut.send_replace(None);
    }

    fn is_shut(&self, kind: &'static str) -> bool {
        *self.shut.borrow() == Some(kind)
    }

    async fn pass(&self, kind: &'static str) {
        let mut shut = self.shut.subscribe();
        if self.is_shut(kind) {
            self.waiting.send_modify(|waiting| *waiting += 1);
        }
        shut.wait_for(|shut| *shut != Some(kind)).await.unwrap();
    }
}

type Shared = State<Arc<Neighbours>>;

impl Neighbours {
    pub(crate) async fn start(lifetime: &Lifetime) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Self {
            addr: listener.local_addr().unwrap(),
            lifetime: lifetime.clone(),
            routes: Mutex::default(),
            synced: Mutex::default(),
            jobs: watch::Sender::default(),
            ended: Mutex::default(),
            logs: watch::Sender::default(),
            cuts: watch::Sender::default(),
            stopped: watch::Sender::default(),
            lines: Mutex::new(vec!["starting".into(), "boom: no such module".into()]),
            volumes: Mutex::default(),
            blobs: Mutex::default(),
            hosts: Mutex::new(vec![HOST.into()]),
            other_host: Mutex::default(),
            refusal: Mutex::default(),
            deaf: AtomicBool::default(),
            gate: Gate::default(),
        });
        let router = Router::new()
            .route("/services/{service}", get(service))
            .route("/routes", get(routes).put(set_route))
            .route("/routes/{type}/{id}", delete(remove_route))
            .route("/sync", get(sync))
            .route("/cluster/state", get(cluster))
            .route("/cluster/commit", post(commit))
            .route("/host/jobs/{job}", get(job).put(order).delete(stop))
            .route("/host/jobs/{job}/log", get(log))
            .route("/host/volumes", get(volumes))
            .route("/host/volumes/{name}", delete(remove_volume))
            .route("/attach", post(attached))
            .route("/provider", post(provide))
            .route("/", get(blobs))
            .route("/slugs/{name}", delete(delete_blob))
            .route("/repos/{app}/{name}", delete(delete_blob))
            .with_state(shared.clone());
        lifetime.serve(listener, router);
        shared
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

async fn service(State(shared): Shared, Path(service): Path<String>) -> Response {
    let meta = [("id".to_owned(), HOST.to_owned())].into();
    let instance = Instance::new("http", &shared.addr.to_string(), meta);
    let event = |kind, instance| Event {
        service: service.clone(),
        kind,
        instance,
        term: Some(Term { epoch: 1, revision: 1 }),
        service_meta: None,
        suspect: false,
        revision: 1,
    };
    let other = shared.other_host.lock().unwrap().clone().filter(|_| service == "flynn-host");
    let other = other.map(|(id, addr)| {
        let instance = Instance::new("http", &addr.to_string(), [("id".to_owned(), id)].into());
        event(EventKind::Up, Some(instance))
    });
    let events = other.into_iter().chain([
        event(EventKind::Up, Some(instance.clone())),
        event(EventKind::Leader, Some(instance)),
        event(EventKind::Current, None),
    ]);
    let events: Vec<_> = events.collect();
    let stop = shared.lifetime.stop().cancelled_owned();
    daemon::events::response(stream::iter(events).chain(stream::pending()).take_until(stop))
}

async fn routes(
    State(shared): Shared,
    Query(query): Query<BTreeMap<String, String>>,
) -> Json<Vec<Route>> {
    let mut routes = shared.routes.lock().unwrap().clone();
    if let Some(owner) = query.get("parent_ref") {
        routes.retain(|route| route.parent_ref == *owner);
    }
    Json(routes)
}

async fn set_route(
    State(shared): Shared,
    Body(new): Body<NewRoute>,
) -> Result<Json<Stored>, ApiError> {
    let mut route = new.flatten(None).unwrap();
    route.id = format!("http/{}", Instance::id_of("http", &route.domain));
    let mut routes = shared.routes.lock().unwrap();
    match routes.iter_mut().find(|there| there.id == route.id) {
        Some(there) if there.parent_ref != route.parent_ref => {
            return Err(ApiError::new(ErrorCode::ObjectExists, "it belongs to somebody else"));
        }
        Some(there) => *there = route.clone(),
        None => routes.push(route.clone()),
    }
    Ok(Json(Stored { route, revision: 41 + routes.len() as u64 }))
}

async fn remove_route(
    State(shared): Shared,
    Path((kind, id)): Path<(String, String)>,
) -> Result<Json<Stored>, ApiError> {
    let mut routes = shared.routes.lock().unwrap();
    let at = routes.iter().position(|route| route.id == format!("{kind}/{id}"));
    let route = routes.remove(at.ok_or_else(|| ApiError::not_found("no such route"))?);
    Ok(Json(Stored { route, revision: 77 }))
}

async fn sync(State(shared): Shared, Query(query): Query<BTreeMap<String, u64>>) -> Json<()> {
    shared.gate.pass("sync").await;
    shared.synced.lock().unwrap().push(query["routes"]);
    Json(())
}

async fn cluster(State(shared): Shared) -> Json<Cluster> {
    let host = HostState {
        version: 1,
        addr: shared.addr.to_string(),
        tags: BTreeMap::new(),
        capacity: Capacity { memory: 64 << 30, cpu: 8000, addresses: 500 },
        jobs: BTreeMap::new(),
    };
    let (term, host) = (Term { epoch: 1, revision: 1 }, Arc::new(host));
    let hosts = shared.hosts.lock().unwrap().clone().into_iter().map(|id| (id, host.clone()));
    Json(Cluster { term, hosts: hosts.collect(), ..Cluster::default() })
}

async fn commit(State(shared): Shared, Body(tx): Body<Tx>) -> Json<Committed> {
    shared.gate.pass("commit").await;
    if let Some(why) = shared.refusal.lock().unwrap().clone() {
        let lost = tx.add.into_keys().map(|host| (host, why.clone())).collect();
        return Json(Committed { lost, ..Committed::default() });
    }
    for job in tx.add.into_values().flatten() {
        shared.jobs.send_modify(|known| drop(known.insert(job.id, job)));
    }
    shared.gate.pass("commit answer").await;
    Json(Committed::default())
}

async fn job(State(shared): Shared, Path(id): Path<JobId>) -> Result<Json<ActiveJob>, ApiError> {
    shared.gate.pass("job").await;
    let known = shared.jobs.borrow().get(&id).cloned();
    let job = known.ok_or_else(|| ApiError::not_found("no such job"))?;
    let ended = shared.ended.lock().unwrap().get(&id).copied();
    Ok(Json(ActiveJob {
        job,
        host_id: HOST.into(),
        container_id: String::new(),
        internal_ip: None,
        status: ended.map_or(Status::Running, |(status, _)| status),
        created_at: Timestamp::now(),
        started_at: None,
        ended_at: None,
        exit_status: None,
        error: None,
        end_reason: ended.map(|(_, reason)| reason),
        host_restarts: 0,
    }))
}

async fn order(State(shared): Shared, Body(job): Body<Job>) -> Json<()> {
    shared.jobs.send_modify(|known| drop(known.insert(job.id, job)));
    Json(())
}

async fn stop(State(shared): Shared, Path(id): Path<JobId>) -> Result<Json<()>, ApiError> {
    shared.gate.pass("stop").await;
    shared.stopped.send_modify(|stopped| stopped.push(id));
    // It may wait at the gate.
    let unknown = shared.gate.is_shut("commit") && !shared.jobs.borrow().contains_key(&id);
    if unknown { Err(ApiError::not_found("no such job")) } else { Ok(Json(())) }
}

/// A line of a job, at a second.
pub(crate) fn line(job: JobId, second: i64, msg: &str) -> LogLine {
    LogLine {
        host_id: HOST.into(),
        job_id: format!("{HOST}-{job}"),
        process_type: "web".into(),
        stream: "stdout".into(),
        msg: msg.into(),
        timestamp: Timestamp::from_second(second).unwrap(),
    }
}

#[derive(serde::Deserialize)]
struct LogQuery {
    lines: Option<usize>,
    #[serde(default)]
    follow: bool,
}

/// The last lines, and with `follow` what comes, until the log is cut or the job was stopped. Jobs that the test said
/// nothing of have said two lines.
async fn log(
    State(shared): Shared,
    Path(id): Path<JobId>,
    Query(LogQuery { lines, follow }): Query<LogQuery>,
) -> Response {
    let said: Vec<_> = (1..)
        .zip(&*shared.lines.lock().unwrap())
        .map(|(second, msg)| line(id, second, msg))
        .collect();
    let of = move |logs: &BTreeMap<JobId, Vec<LogLine>>| {
        logs.get(&id).cloned().unwrap_or_else(|| said.clone())
    };
    let logs = shared.logs.subscribe();
    let sent = of(&logs.borrow()).len().saturating_sub(lines.unwrap_or(usize::MAX));
    let cuts = shared.cuts.subscribe();
    let state = (logs, cuts, shared.stopped.subscribe(), sent);
    let stop = shared.lifetime.stop();
    let lines = stream::unfold(state, move |(mut logs, mut cuts, mut stopped, sent)| {
        let of = of.clone();
        async move {
            loop {
                let all = of(&logs.borrow_and_update());
                if sent < all.len() {
                    let text =
                        all[sent..].iter().map(|line| serde_json::to_string(line).unwrap() + "\n");
                    let text: String = text.collect();
                    return Some((Ok::<_, std::io::Error>(text), (logs, cuts, stopped, all.len())));
                }
                let over = stopped.borrow_and_update().contains(&id);
                if !follow || over || cuts.has_changed().unwrap() {
                    return None;
                }
                tokio::select! {
                    _ = logs.changed() => {}
                    _ = cuts.changed() => return None,
                    _ = stopped.changed() => {}
                }
            }
        }
    });
    axum::body::Body::from_stream(lines.take_until(stop.cancelled_owned())).into_response()
}

/// Says "waiting" until the job is committed; then sends back what comes on stdin, and ends with status 7 at its end. A deaf
/// one takes nothing, and never ends.
async fn attached(State(shared): Shared, mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    let Body(wanted) = Body::<AttachRequest>::from_request(request, &()).await.unwrap();
    let (jobs, host) = (shared.jobs.subscribe(), shared.clone());
    shared.lifetime.spawn_request(async move {
        let mut connection = TokioIo::new(upgrade.await.unwrap());
        connection.write_all(&Attach::Waiting.to_bytes()).await.unwrap();
        let mut jobs = jobs;
        jobs.wait_for(|jobs| jobs.contains_key(&wanted.job_id)).await.unwrap();
        connection.write_all(&Attach::Attached.to_bytes()).await.unwrap();
        if host.deaf.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let mut frames = Framed::new(connection, FrameCodec);
        while let Some(Ok(frame)) = frames.next().await {
            let Frame::Data { stream: Stream::Stdin, bytes } = frame else { continue };
            let answer = if bytes.is_empty() {
                Frame::Exit(7)
            } else {
                Frame::Data { stream: Stream::Stdout, bytes }
            };
            let over = answer == Frame::Exit(7);
            frames.send(answer).await.unwrap();
            if over {
                return;
            }
        }
    });
    let headers = [("connection", "Upgrade"), ("upgrade", attach::PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn blobs(
    State(shared): Shared,
    Query(query): Query<BTreeMap<String, String>>,
) -> Json<Vec<Blob>> {
    shared.gate.pass("blobs").await;
    let blobs = shared.blobs.lock().unwrap();
    let listed = blobs.values().filter(|blob| blob.path.starts_with(&query["prefix"]));
    Json(listed.cloned().collect())
}

/// Makes something else each time.
async fn provide() -> Json<Provisioned> {
    let (id, env) = (format!("/things/{}", JobId::random()), BTreeMap::new());
    Json(Provisioned { id, env })
}

async fn delete_blob(State(shared): Shared, path: OriginalUri) -> Json<()> {
    shared.blobs.lock().unwrap().remove(path.path());
    Json(())
}

async fn volumes(State(shared): Shared) -> Json<Vec<HostVolume>> {
    shared.gate.pass("volumes").await;
    Json(shared.volumes.lock().unwrap().clone())
}

async fn remove_volume(
    State(shared): Shared,
    Path(name): Path<String>,
) -> Result<Json<()>, ApiError> {
    let mut volumes = shared.volumes.lock().unwrap();
    let at = volumes.iter().position(|volume| volume.name == name);
    let at = at.ok_or_else(|| ApiError::not_found("no such volume"))?;
    if let Some(job) = volumes[at].jobs.first() {
        return Err(ApiError::new(ErrorCode::Conflict, format!("it is in use by job {job}")));
    }
    volumes.remove(at);
    Ok(Json(()))
}
