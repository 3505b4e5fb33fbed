//! A host that leads: its jobs come up at once, unless they shall not. Others may stand beside it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use api::{
    cluster::{Capacity, Committed, HostState, Rejected, Tx},
    discoverd::Term,
    error::ErrorCode,
    host::{
        ActiveJob, Event, EventKind, Job, META_APP, META_RELEASE, META_TYPE, Status, TERM_HEADER,
    },
    id::JobId,
};
use axum::{
    Json, Router,
    extract::State,
    middleware,
    response::Response,
    routing::{get, post},
};
use daemon::{ApiError, Body, auth};
use http::HeaderMap;
use jiff::Timestamp;
use sampi::{HostInfo, placed};
use tokio::sync::{broadcast, watch};

use super::KEY;

const GIB: u64 = 1 << 30;

#[derive(Clone)]
pub(crate) struct FakeHost(Arc<Inner>);

struct Inner {
    id: String,
    known: Mutex<Known>,
    live: broadcast::Sender<Option<Event>>,
    /// Of the host that leads: the others.
    others: Mutex<BTreeMap<String, FakeHost>>,
    /// Of one that does not: the one that does.
    leader: Option<FakeHost>,
    /// While it is so, it answers no order.
    slow: watch::Sender<bool>,
}

struct Known {
    cluster: sampi::Cluster,
    jobs: BTreeMap<JobId, ActiveJob>,
    /// Every job crashes as soon as it starts.
    crashing: bool,
    /// No order is taken.
    deaf: bool,
    /// Jobs it did not take.
    refusals: usize,
    commits: u32,
}

impl Inner {
    fn new(id: &str, known: Known, leader: Option<FakeHost>) -> Self {
        Self {
            id: id.into(),
            known: Mutex::new(known),
            live: broadcast::channel(1024).0,
            others: Mutex::default(),
            leader,
            slow: watch::Sender::new(false),
        }
    }
}

impl FakeHost {
    /// A host with room for 16 jobs.
    pub(crate) fn new(id: &str, addr: SocketAddr) -> Self {
        let mut cluster = sampi::Cluster::new(super::term(1), 0);
        let info = HostInfo {
            addr: addr.to_string(),
            tags: BTreeMap::new(),
            capacity: Capacity { memory: 16 * GIB, cpu: 4000, addresses: 500 },
            jobs: BTreeMap::new(),
            as_of: 0,
        };
        cluster.upsert_host(id, info);
        let known = Known {
            cluster,
            jobs: BTreeMap::new(),
            crashing: false,
            deaf: false,
            refusals: 0,
            commits: 0,
        };
        Self(Arc::new(Inner::new(id, known, None)))
    }

    /// Another host, of that many GiB, which this one leads.
    pub(crate) fn beside(&self, id: &str, addr: SocketAddr, gib: u64) -> Self {
        let info = HostInfo {
            addr: addr.to_string(),
            tags: BTreeMap::new(),
            capacity: Capacity { memory: gib * GIB, cpu: 4000, addresses: 500 },
            jobs: BTreeMap::new(),
            as_of: 0,
        };
        self.0.known.lock().unwrap().cluster.upsert_host(id, info);
        let known = Known {
            cluster: sampi::Cluster::default(),
            jobs: BTreeMap::new(),
            crashing: false,
            deaf: false,
            refusals: 0,
            commits: 0,
        };
        let other = Self(Arc::new(Inner::new(id, known, Some(self.clone()))));
        self.0.others.lock().unwrap().insert(id.into(), other.clone());
        other
    }

    /// Lets it answer no order until it is told otherwise.
    pub(crate) fn set_slow(&self, slow: bool) {
        self.0.slow.send_replace(slow);
    }

    pub(crate) fn router(&self) -> Router {
        Router::new()
            .route("/host/jobs", get(events))
            .route("/cluster/state", get(state))
            .route("/cluster/commit", post(commit))
            .with_state(self.clone())
            .layer(middleware::from_fn_with_state(auth::Keys::parse(KEY), auth::require))
    }

    /// Jobs that serve.
    pub(crate) fn up(&self) -> Vec<JobId> {
        let known = self.0.known.lock().unwrap();
        let up = known.jobs.iter().filter(|(_, job)| job.status == Status::Running);
        up.map(|(&id, _)| id).collect()
    }

    /// Every job it was ever given.
    pub(crate) fn all(&self) -> Vec<ActiveJob> {
        self.0.known.lock().unwrap().jobs.values().cloned().collect()
    }

    pub(crate) fn refusals(&self) -> usize {
        self.0.known.lock().unwrap().refusals
    }

    pub(crate) fn commits(&self) -> u32 {
        self.0.known.lock().unwrap().commits
    }

    pub(crate) fn set_crashing(&self, crashing: bool) {
        self.0.known.lock().unwrap().crashing = crashing;
    }

    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.0.known.lock().unwrap().deaf = deaf;
    }

    /// Cuts the streams.
    pub(crate) fn cut(&self) {
        let _ = self.0.live.send(None);
    }

    /// A job's process is killed from outside. `silently`: nobody is told.
    pub(crate) fn kill(&self, id: JobId, silently: bool) {
        self.end(id, 137, silently);
    }

    /// Starts a job that no scheduler ordered, as bootstrap does.
    pub(crate) fn adopt(&self, app: u128, resurrect: bool) -> JobId {
        let uuid = |n: u128| uuid::Uuid::from_u128(n).simple().to_string();
        let metadata: BTreeMap<&str, String> =
            [(META_APP, uuid(app)), (META_RELEASE, uuid(100 + app)), (META_TYPE, "web".into())]
                .into();
        let id = JobId::random();
        let job: Job = serde_json::from_value(serde_json::json!({
            "id": id, "image": "flynn/slugrunner", "metadata": metadata, "resurrect": resurrect,
        }))
        .unwrap();
        self.start(&job);
        let mut known = self.0.known.lock().unwrap();
        let active = known.jobs.values().filter(|job| job.status.is_active());
        let jobs = active.map(|active| (active.job.id, placed(&active.job))).collect();
        let state = known.cluster.state();
        let HostState { addr, tags, capacity, .. } = HostState::clone(&state.hosts[&self.0.id]);
        let as_of = known.cluster.moment();
        let info = HostInfo { addr, tags, capacity, jobs, as_of };
        known.cluster.upsert_host(&self.0.id, info);
        id
    }

    fn start(&self, job: &Job) {
        let at = Timestamp::now();
        let active = ActiveJob {
            job: job.clone(),
            host_id: self.0.id.clone(),
            container_id: String::new(),
            internal_ip: None,
            status: Status::Starting,
            created_at: at,
            started_at: Some(at),
            ended_at: None,
            exit_status: None,
            error: None,
            end_reason: None,
            host_restarts: 0,
        };
        self.say(EventKind::Create, active.clone());
        let crashing = self.0.known.lock().unwrap().crashing;
        if crashing {
            self.end(job.id, 1, false);
        } else {
            self.say(EventKind::Up, ActiveJob { status: Status::Running, ..active });
        }
    }

    fn stop(&self, id: JobId) {
        let Some(active) = self.0.known.lock().unwrap().jobs.get(&id).cloned() else { return };
        self.say(EventKind::Stopping, ActiveJob { status: Status::Stopping, ..active });
        self.end(id, 143, false);
    }

    fn end(&self, id: JobId, status: i32, silently: bool) {
        let leader = self.0.leader.as_ref().unwrap_or(self);
        leader.0.known.lock().unwrap().cluster.job_ended(&self.0.id, id);
        let mut active = self.0.known.lock().unwrap().jobs[&id].clone();
        active.status = Status::Crashed;
        active.ended_at = Some(Timestamp::now());
        active.exit_status = Some(status);
        if silently {
            self.0.known.lock().unwrap().jobs.insert(id, active);
        } else {
            self.say(EventKind::Stop, active);
        }
    }

    fn say(&self, event: EventKind, job: ActiveJob) {
        let mut known = self.0.known.lock().unwrap();
        known.jobs.insert(job.job.id, job.clone());
        let _ = self.0.live.send(Some(Event { event, job: Some(job) }));
    }
}

async fn events(State(host): State<FakeHost>) -> Response {
    let known = host.0.known.lock().unwrap();
    let live = host.0.live.subscribe();
    let current = |job: &ActiveJob| Event { event: EventKind::Current, job: Some(job.clone()) };
    let listing = known.jobs.values().map(current);
    let synced = Event { event: EventKind::Synced, job: None };
    daemon::events::response(super::follow(listing.chain([synced]).collect(), live))
}

async fn state(State(host): State<FakeHost>) -> Json<api::cluster::State> {
    Json(host.0.known.lock().unwrap().cluster.state())
}

async fn commit(
    State(host): State<FakeHost>,
    headers: HeaderMap,
    Body(tx): Body<Tx>,
) -> Result<Json<Committed>, ApiError> {
    let refuse = |rejected: Rejected| {
        let detail = serde_json::to_value(rejected).unwrap();
        ApiError::new(ErrorCode::Conflict, "refused").with_detail(detail)
    };
    let planner = headers[TERM_HEADER].to_str().ok().and_then(Term::from_header).unwrap();
    let (commit, on) = {
        let mut known = host.0.known.lock().unwrap();
        known.cluster.obey(planner).map_err(refuse)?;
        let commit = known.cluster.commit(tx).map_err(refuse)?;
        known.commits += 1;
        let others = host.0.others.lock().unwrap().clone();
        (commit, others)
    };
    let mut committed = Committed { versions: commit.versions, ..Committed::default() };
    for (id, orders) in commit.dispatch {
        let on = on.get(&id).unwrap_or(&host);
        let mut slow = on.0.slow.subscribe();
        slow.wait_for(|slow| !slow).await.unwrap();
        let deaf = on.0.known.lock().unwrap().deaf;
        {
            let cluster = &mut host.0.known.lock().unwrap().cluster;
            for job in &orders.start {
                match deaf {
                    true => assert!(cluster.job_ended(&id, job.id)),
                    false => assert!(cluster.taken(&id, job.id)),
                }
            }
        }
        if deaf {
            on.0.known.lock().unwrap().refusals += orders.start.len();
            committed.lost.insert(id, "the disk is full".into());
            continue;
        }
        orders.start.iter().for_each(|job| on.start(job));
        orders.stop.into_iter().for_each(|id| on.stop(id));
    }
    Ok(Json(committed))
}
