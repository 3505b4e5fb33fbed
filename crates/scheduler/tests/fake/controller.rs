//! The controller, as far as the scheduler uses it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use api::{
    controller::{ExpandedFormation, Job, JobState},
    id::{AppId, JobId},
};
use axum::{
    Json, Router,
    extract::{Path, State},
    middleware,
    response::Response,
    routing::{get, put},
};
use daemon::{Body, auth};
use tokio::sync::broadcast;

use super::KEY;

type Item = Option<ExpandedFormation>;

#[derive(Clone)]
pub(crate) struct FakeController(Arc<Inner>);

struct Inner {
    formations: Mutex<BTreeMap<AppId, ExpandedFormation>>,
    jobs: Mutex<BTreeMap<JobId, Job>>,
    told: Mutex<Vec<Job>>,
    live: broadcast::Sender<Option<Item>>,
    /// Terms of the schedulers that told anything.
    terms: Mutex<BTreeSet<String>>,
    /// Apps whose jobs were asked for.
    asked_for: Mutex<BTreeSet<AppId>>,
}

impl Default for FakeController {
    fn default() -> Self {
        Self(Arc::new(Inner {
            formations: Mutex::default(),
            jobs: Mutex::default(),
            told: Mutex::default(),
            live: broadcast::channel(256).0,
            terms: Mutex::default(),
            asked_for: Mutex::default(),
        }))
    }
}

impl FakeController {
    pub(crate) fn router(&self) -> Router {
        Router::new()
            .route("/formations", get(formations))
            .route("/active-jobs", get(active_jobs))
            .route("/apps/{app}/jobs", get(jobs))
            .route("/apps/{app}/jobs/{job}", put(put_job))
            .with_state(self.clone())
            .layer(middleware::from_fn_with_state(auth::Keys::parse(KEY), auth::require))
    }

    /// Wants so many `web` processes of the app of this number.
    pub(crate) fn scale(&self, app: u128, web: u32) {
        let formation = formation(app, web);
        self.0.formations.lock().unwrap().insert(formation.app.id, formation.clone());
        let _ = self.0.live.send(Some(Some(formation)));
    }

    /// Changes a formation without telling anybody, as if the stream had just been lost.
    pub(crate) fn scale_silently(&self, app: u128, web: u32) {
        let formation = formation(app, web);
        self.0.formations.lock().unwrap().insert(formation.app.id, formation);
    }

    /// Cuts the streams.
    pub(crate) fn cut(&self) {
        let _ = self.0.live.send(None);
    }

    /// Records a job, as an earlier scheduler would have.
    pub(crate) fn remember(&self, job: Job) {
        self.0.jobs.lock().unwrap().insert(job.uuid, job);
    }

    /// What it was told of a job last.
    pub(crate) fn job(&self, id: JobId) -> Option<Job> {
        self.0.jobs.lock().unwrap().get(&id).cloned()
    }

    /// The jobs it knows in a state.
    pub(crate) fn in_state(&self, state: JobState) -> Vec<Job> {
        let jobs = self.0.jobs.lock().unwrap();
        jobs.values().filter(|job| job.state == state).cloned().collect()
    }

    /// Under which terms it was told anything.
    pub(crate) fn terms(&self) -> Vec<String> {
        self.0.terms.lock().unwrap().iter().cloned().collect()
    }

    /// Apps whose jobs were asked for.
    pub(crate) fn asked_for(&self) -> BTreeSet<AppId> {
        self.0.asked_for.lock().unwrap().clone()
    }

    /// How often it was told anything.
    pub(crate) fn told(&self) -> Vec<Job> {
        self.0.told.lock().unwrap().clone()
    }
}

pub(crate) fn formation(app: u128, web: u32) -> ExpandedFormation {
    let id = |n| uuid::Uuid::from_u128(n);
    let at = jiff::Timestamp::now();
    serde_json::from_value(serde_json::json!({
        "app": { "id": id(app), "name": format!("app{app}"), "created_at": at, "updated_at": at },
        "release": { "id": id(100 + app), "created_at": at, "processes": { "web": {} } },
        "artifacts": [{ "id": id(7), "type": "docker", "uri": "docker:///flynn/slugrunner", "created_at": at }],
        "processes": { "web": web },
        "updated_at": at,
    }))
    .unwrap()
}

async fn formations(State(FakeController(fake)): State<FakeController>) -> Response {
    let live = fake.live.subscribe();
    let listing = fake.formations.lock().unwrap().values().cloned().map(Some).collect::<Vec<_>>();
    let listing = listing.into_iter().chain([None]).collect();
    daemon::events::response(super::follow(listing, live))
}

async fn active_jobs(State(FakeController(fake)): State<FakeController>) -> Json<Vec<Job>> {
    let jobs = fake.jobs.lock().unwrap();
    Json(jobs.values().filter(|job| !job.state.is_over()).cloned().collect())
}

async fn jobs(
    State(FakeController(fake)): State<FakeController>,
    Path(app): Path<AppId>,
) -> Json<Vec<Job>> {
    fake.asked_for.lock().unwrap().insert(app);
    let jobs = fake.jobs.lock().unwrap();
    Json(jobs.values().filter(|job| job.app == app).cloned().collect())
}

async fn put_job(
    State(FakeController(fake)): State<FakeController>,
    Path((_, id)): Path<(String, String)>,
    headers: http::HeaderMap,
    Body(job): Body<Job>,
) -> Json<Job> {
    let term = headers[api::host::TERM_HEADER].to_str().unwrap().to_owned();
    fake.terms.lock().unwrap().insert(term);
    assert_eq!(id, job.id);
    fake.told.lock().unwrap().push(job.clone());
    fake.jobs.lock().unwrap().insert(job.uuid, job.clone());
    Json(job)
}
