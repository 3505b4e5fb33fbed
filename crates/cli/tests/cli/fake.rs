//! A controller faked on the wire: what it stores it answers, and its jobs move on each time somebody looks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use api::{
    controller::{
        App, AppChange, Base, Deployment, DeploymentStatus, Event, Job, JobState, Key, LogLine,
        NewApp, NewDeployment, NewKey, NewRelease, Release, ScaleRequest, ScaleState,
    },
    error::{ErrorBody, ErrorCode},
    id::{DeploymentId, ReleaseId},
    route::{NewRoute, Route},
};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::sync::broadcast;

use crate::world::{Meanwhile, World, deployment};

/// The fake, alive until the test ends.
pub(crate) struct Fake {
    pub(crate) url: String,
    world: Shared,
    _runtime: tokio::runtime::Runtime,
}

pub(crate) type Shared = Arc<Mutex<World>>;

impl Fake {
    pub(crate) fn start() -> Self {
        let (world, router) = Self::parts();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        // A name glibc does not know.
        let url = format!("http://controller.localhost:{}", listener.local_addr().unwrap().port());
        runtime.spawn(async { axum::serve(listener, router).await });
        Self { url, world, _runtime: runtime }
    }

    /// The fake without a listener.
    pub(crate) fn parts() -> (Shared, Router) {
        let world = World {
            apps: vec![],
            releases: vec![],
            formations: vec![],
            jobs: vec![],
            routes: vec![],
            keys: vec![],
            deployments: vec![],
            log: vec![],
            volumes: vec![],
            resources: vec![],
            new_jobs: vec![],
            deployed_sources: vec![],
            requests: vec![],
            crash: None,
            meanwhile: Meanwhile::default(),
            ticks: 0,
            events: broadcast::channel(64).0,
        };
        let world = Arc::new(Mutex::new(world));
        (world.clone(), router(world))
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }
}

fn router(world: Shared) -> Router {
    Router::new()
        .route("/apps", get(apps).post(create_app))
        .route("/apps/{app}", get(app).post(update_app).delete(delete_app))
        .route("/apps/{app}/releases", get(releases))
        .route("/releases", post(create_release))
        .route("/releases/{id}", get(release))
        .route("/apps/{app}/formations", get(formations))
        .route("/apps/{app}/formations/{release}", get(formation))
        .route("/apps/{app}/scale/{release}", put(scale))
        .route("/apps/{app}/jobs", get(jobs).post(crate::attached::run_job))
        .route("/apps/{app}/jobs/{job}", delete(delete_job).get(one_job))
        .route("/apps/{app}/log", get(log))
        .route("/apps/{app}/deploy", post(deploy))
        .route("/apps/{app}/deployments", get(deployments))
        .route("/deployments/{id}", get(one_deployment).delete(cancel))
        .route("/apps/{app}/routes", get(routes).post(create_route))
        .route("/apps/{app}/routes/{kind}/{id}", delete(delete_route))
        .route("/keys", get(keys).post(add_key))
        .route("/keys/{id}", delete(remove_key))
        .route("/events", get(events))
        .merge(crate::words::routes())
        .merge(crate::git_deploy::routes())
        .merge(crate::volumes::routes())
        .merge(crate::resources::routes())
        .layer(middleware::from_fn_with_state(world.clone(), guard))
        .with_state(world)
}

async fn guard(State(world): State<Shared>, request: Request, next: Next) -> Response {
    world.lock().unwrap().requests.push(format!("{} {}", request.method(), request.uri()));
    // `:key` in base64.
    let key = request.headers().get(header::AUTHORIZATION).is_some_and(|v| v == "Basic OmtleQ==");
    if key { next.run(request).await } else { error(ErrorCode::Unauthorized, "no key") }
}

pub(crate) fn error(code: ErrorCode, message: &str) -> Response {
    let body = ErrorBody { code, message: message.into(), detail: None, retry: false };
    (StatusCode::from_u16(code.status()).unwrap(), Json(body)).into_response()
}

/// As the controller's compatible 404: nothing in it.
pub(crate) fn not_found() -> Response {
    StatusCode::NOT_FOUND.into_response()
}

pub(crate) fn found<T: serde::Serialize>(what: Option<T>) -> Response {
    what.map_or_else(not_found, |what| Json(what).into_response())
}

async fn apps(State(world): State<Shared>) -> Json<Vec<App>> {
    Json(world.lock().unwrap().apps.clone())
}

async fn create_app(State(world): State<Shared>, Json(new): Json<NewApp>) -> Response {
    let mut world = world.lock().unwrap();
    let name = new.name.unwrap_or_else(|| "quiet-river-42".into());
    if world.app(&name).is_some() {
        return error(ErrorCode::ObjectExists, "an app of that name exists; choose another");
    }
    world.add_app(&name);
    found(world.app(&name))
}

async fn app(State(world): State<Shared>, Path(app): Path<String>) -> Response {
    found(world.lock().unwrap().app(&app))
}

async fn delete_app(State(world): State<Shared>, Path(app): Path<String>) -> Json<()> {
    world.lock().unwrap().apps.retain(|a| a.name != app && a.id.to_string() != app);
    Json(())
}

async fn releases(State(world): State<Shared>) -> Json<Vec<Release>> {
    Json(world.lock().unwrap().releases.clone())
}

async fn create_release(State(world): State<Shared>, Json(new): Json<NewRelease>) -> Json<Release> {
    Json(world.lock().unwrap().add_release(new))
}

async fn release(State(world): State<Shared>, Path(id): Path<ReleaseId>) -> Response {
    found(world.lock().unwrap().releases.iter().find(|r| r.id == id))
}

async fn formation(
    State(world): State<Shared>,
    Path((_, release)): Path<(String, ReleaseId)>,
) -> Response {
    found(world.lock().unwrap().formations.iter().find(|f| f.release == release))
}

async fn scale(
    State(world): State<Shared>,
    Path((app, release)): Path<(String, ReleaseId)>,
    Json(request): Json<ScaleRequest>,
) -> Response {
    let mut world = world.lock().unwrap();
    let Some(app) = world.app(&app) else { return not_found() };
    if let Some((kind, count)) = world.meanwhile.scale.take() {
        world.apply(app.id, release, &[(kind, count)].into());
    }
    let known = world.formations.iter().find(|f| f.release == release);
    let mut counts = known.map(|f| f.processes.clone()).unwrap_or_default();
    let old = request.old_processes.clone().unwrap_or_default();
    if old.iter().any(|(kind, count)| counts.get(kind).unwrap_or(&0) != count) {
        return error(ErrorCode::Conflict, "somebody else scaled meanwhile");
    }
    counts.extend(request.new_processes.clone().unwrap_or_default());
    let mut tags = known.map(|f| f.tags.clone()).unwrap_or_default();
    let stale = |(kind, old): (&String, &BTreeMap<_, _>)| {
        tags.get(kind).cloned().unwrap_or_default() != *old
    };
    if request.old_tags.iter().flatten().any(stale) {
        return error(ErrorCode::Conflict, "somebody else changed tags meanwhile");
    }
    tags.extend(request.new_tags.clone().unwrap_or_default());
    tags.retain(|_, tags| !tags.is_empty());
    world.apply(app.id, release, &counts);
    world
        .formations
        .iter_mut()
        .filter(|f| f.release == release)
        .for_each(|f| f.tags = tags.clone());
    let _ = world.events.send(None);
    Json(ScaleRequest { state: ScaleState::Complete, ..request }).into_response()
}

async fn jobs(
    State(world): State<Shared>,
    Path(app): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let mut world = world.lock().unwrap();
    let Some(app) = world.app(&app) else { return not_found() };
    let active = query.contains_key("active");
    let asked = |job: &&Job| job.app == app.id && !(active && job.state.is_over());
    let jobs: Vec<Job> = world.jobs.iter().filter(asked).cloned().collect();
    // Who looks asks for those first.
    if !active {
        world.advance();
    }
    Json(jobs).into_response()
}

async fn one_job(State(world): State<Shared>, Path((_, id)): Path<(String, String)>) -> Response {
    found(world.lock().unwrap().jobs.iter().find(|job| job.id == id))
}

async fn delete_job(
    State(world): State<Shared>,
    Path((_, id)): Path<(String, String)>,
) -> Response {
    let mut world = world.lock().unwrap();
    let ended = world.meanwhile.end.take_if(|ended| *ended == id).is_some();
    let job = world.jobs.iter_mut().find(|job| job.id == id);
    if let Some(job) = job.filter(|_| ended) {
        job.state = JobState::Down;
        return not_found();
    }
    let job = world.jobs.iter_mut().find(|job| job.id == id);
    found(job.map(|job| job.state = JobState::Stopping))
}

async fn log(
    State(world): State<Shared>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let lines: Vec<LogLine> = world
        .lock()
        .unwrap()
        .log
        .iter()
        .filter(|line| query.get("job_id").is_none_or(|id| *id == line.job_id))
        .filter(|line| query.get("process_type").is_none_or(|kind| *kind == line.process_type))
        .cloned()
        .collect();
    let count = query.get("lines").and_then(|n| n.parse().ok()).unwrap_or(lines.len());
    let from = lines.len().saturating_sub(count);
    let text = lines[from..].iter().map(|line| serde_json::to_string(line).unwrap() + "\n");
    let text = text.collect::<String>();
    if query.contains_key("job_id") || query.get("follow").is_none_or(|follow| follow != "true") {
        return text.into_response();
    }
    // Whoever follows an app hears no end.
    let lines = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(text)]);
    Body::from_stream(lines.chain(futures_util::stream::pending())).into_response()
}

async fn deploy(
    State(world): State<Shared>,
    Path(app): Path<String>,
    Json(new): Json<NewDeployment>,
) -> Response {
    let mut world = world.lock().unwrap();
    if let Some(release) = world.meanwhile.deploy.take() {
        world.set_current(release);
    }
    let (Some(app), now) = (world.app(&app), world.now()) else { return not_found() };
    if new.base.is_some_and(|base| base != Base::of(app.release)) {
        return error(ErrorCode::Conflict, "another release serves now");
    }
    let made = deployment(app.id, app.release, new.id, DeploymentStatus::Pending, now);
    world.deployments.insert(0, made.clone());
    Json(made).into_response()
}

async fn deployments(State(world): State<Shared>) -> Json<Vec<Deployment>> {
    Json(world.lock().unwrap().deployments.clone())
}

async fn cancel(State(world): State<Shared>, Path(id): Path<DeploymentId>) -> Response {
    let mut world = world.lock().unwrap();
    let Some(deployment) = world.deployments.iter_mut().find(|d| d.id == id) else {
        return not_found();
    };
    deployment.status = DeploymentStatus::Failed;
    found(Some(deployment.clone()))
}

async fn update_app(
    State(world): State<Shared>,
    Path(name): Path<String>,
    Json(change): Json<AppChange>,
) -> Response {
    let mut world = world.lock().unwrap();
    let Some(app) = world.apps.iter_mut().find(|app| app.name == name) else { return not_found() };
    app.strategy = change.strategy.unwrap_or(app.strategy);
    app.deploy_timeout = change.deploy_timeout.unwrap_or(app.deploy_timeout);
    for (key, value) in change.meta.unwrap_or_default() {
        match value {
            Some(value) => drop(app.meta.insert(key, value)),
            None => drop(app.meta.remove(&key)),
        }
    }
    found(Some(app.clone()))
}

/// Each look at a deployment is a step of it.
async fn one_deployment(State(world): State<Shared>, Path(id): Path<DeploymentId>) -> Response {
    let mut world = world.lock().unwrap();
    let (crash, delete) = (world.crash.clone(), world.meanwhile.delete);
    let Some(deployment) = world.deployments.iter_mut().find(|d| d.id == id) else {
        return not_found();
    };
    if delete {
        (deployment.status, deployment.error) =
            (DeploymentStatus::Failed, Some("the app was deleted".into()));
        let ended = deployment.clone();
        world.apps.clear();
        return found(Some(ended));
    }
    let answer = deployment.clone();
    deployment.status = match (deployment.status, &crash) {
        (DeploymentStatus::Pending, _) => DeploymentStatus::Running,
        (DeploymentStatus::Running, Some(_)) => DeploymentStatus::Failed,
        (DeploymentStatus::Running, None) => DeploymentStatus::Complete,
        (over, _) => over,
    };
    deployment.error = crash.filter(|_| deployment.status == DeploymentStatus::Failed);
    let after = deployment.clone();
    if after.status == DeploymentStatus::Complete {
        world.set_current(after.new_release);
    }
    let _ = world.events.send(Some(after));
    Json(answer).into_response()
}

async fn routes(State(world): State<Shared>) -> Json<Vec<Route>> {
    Json(world.lock().unwrap().routes.clone())
}

async fn create_route(State(world): State<Shared>, Json(new): Json<NewRoute>) -> Json<Route> {
    let mut world = world.lock().unwrap();
    let now = Some(world.now());
    let id = format!("http/{:032x}", world.ticks);
    let route = Route { id, created_at: now, updated_at: now, ..new.flatten(None).unwrap() };
    world.routes.push(route.clone());
    Json(Route { tls_key: None, ..route })
}

async fn delete_route(
    State(world): State<Shared>,
    Path((_, kind, id)): Path<(String, String, String)>,
) -> Json<()> {
    world.lock().unwrap().routes.retain(|route| route.id != format!("{kind}/{id}"));
    Json(())
}

async fn formations(State(world): State<Shared>) -> Json<Vec<api::controller::Formation>> {
    Json(world.lock().unwrap().formations.clone())
}

async fn keys(State(world): State<Shared>) -> Json<Vec<Key>> {
    Json(world.lock().unwrap().keys.clone())
}

async fn add_key(State(world): State<Shared>, Json(new): Json<NewKey>) -> Response {
    let mut world = world.lock().unwrap();
    let mut words = new.key.splitn(3, ' ').map(str::to_owned);
    let key = [words.next().unwrap(), words.next().unwrap()].join(" ");
    if world.keys.iter().any(|known| known.key == key) {
        return error(ErrorCode::ObjectExists, "the key may push already");
    }
    let key = Key {
        fingerprint: format!("{:032x}", world.keys.len() + 1),
        key,
        comment: words.next().unwrap_or_default(),
        apps: new.apps.iter().filter_map(|name| world.app(name)).map(|app| app.id).collect(),
        created_at: world.now(),
    };
    world.keys.push(key.clone());
    Json(key).into_response()
}

async fn remove_key(State(world): State<Shared>, Path(id): Path<String>) -> Response {
    let mut world = world.lock().unwrap();
    let at = world.keys.iter().position(|key| key.fingerprint == id);
    found(at.map(|at| world.keys.remove(at)))
}

/// Every change of a deployment; of others, that something changed. Of what was, one event.
async fn events(
    State(world): State<Shared>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    if query.contains_key("count") {
        return Json([event(None)]).into_response();
    }
    let receiver = world.lock().unwrap().events.subscribe();
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        let deployment = receiver.recv().await.ok()?;
        let event = event(deployment);
        Some((format!("data: {}\n\n", serde_json::to_string(&event).unwrap()), receiver))
    });
    let stream = futures_util::stream::iter([":\n\n".to_owned()]).chain(stream);
    let body = Body::from_stream(stream.map(Ok::<_, std::convert::Infallible>));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

fn event(deployment: Option<Deployment>) -> Event {
    let object_type = if deployment.is_some() { "deployment" } else { "other" };
    Event {
        id: 1,
        app: None,
        object_type: object_type.into(),
        object_id: String::new(),
        data: serde_json::to_value(deployment).unwrap(),
        created_at: Timestamp::UNIX_EPOCH,
    }
}
