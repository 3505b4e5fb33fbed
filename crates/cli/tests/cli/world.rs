//! What the faked controller knows, and how it moves on.

use std::collections::BTreeMap;

use api::{
    controller::{
        App, Deployment, DeploymentStatus, Formation, Job, JobState, Key, LogLine, NewJob,
        NewRelease, ProcessType, Release, Resource, Strategy,
    },
    id::{AppId, ArtifactId, DeploymentId, JobId, ReleaseId},
    route::Route,
    volume::Volume,
};
use jiff::Timestamp;
use tokio::sync::broadcast;

/// What others do between a person's look and the change that follows.
#[derive(Default)]
pub(crate) struct Meanwhile {
    pub(crate) scale: Option<(String, u32)>,
    pub(crate) deploy: Option<ReleaseId>,
    /// A job ends by itself.
    pub(crate) end: Option<String>,
    /// The app is deleted while it is being deployed.
    pub(crate) delete: bool,
}

/// What the fake knows.
pub(crate) struct World {
    pub(crate) apps: Vec<App>,
    pub(crate) releases: Vec<Release>,
    pub(crate) formations: Vec<Formation>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) routes: Vec<Route>,
    pub(crate) keys: Vec<Key>,
    pub(crate) deployments: Vec<Deployment>,
    pub(crate) log: Vec<LogLine>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) resources: Vec<Resource>,
    pub(crate) new_jobs: Vec<NewJob>,
    /// What jobs that deploy repositories were told.
    pub(crate) deployed_sources: Vec<serde_json::Value>,
    /// `GET /apps`, with the query, in order.
    pub(crate) requests: Vec<String>,
    /// What new jobs become.
    pub(crate) crash: Option<String>,
    /// What others do just before the next change.
    pub(crate) meanwhile: Meanwhile,
    pub(crate) ticks: i64,
    /// The deployment that changed, if it was one.
    pub(crate) events: broadcast::Sender<Option<Deployment>>,
}

impl World {
    pub(crate) fn now(&mut self) -> Timestamp {
        self.ticks += 1;
        Timestamp::from_second(1_800_000_000 + self.ticks).unwrap()
    }

    /// An app with a release that has `web` and `worker`, deployed.
    pub(crate) fn deployed_app(&mut self, name: &str) -> ReleaseId {
        let app = self.add_app(name);
        let types = ["web", "worker"].map(|kind| (kind.to_owned(), ProcessType::default()));
        let new = NewRelease {
            app_id: Some(app),
            artifacts: vec![ArtifactId::random()],
            processes: types.into(),
            ..NewRelease::default()
        };
        let release = self.add_release(new);
        self.set_current(release.id);
        let now = self.now();
        self.deployments.push(deployment(app, None, release.id, DeploymentStatus::Complete, now));
        self.apply(app, release.id, &[("web".to_owned(), 1)].into());
        self.advance();
        self.requests.clear();
        release.id
    }

    pub(crate) fn add_app(&mut self, name: &str) -> AppId {
        let (id, now) = (AppId::random(), self.now());
        self.apps.push(App {
            id,
            name: name.into(),
            meta: BTreeMap::new(),
            strategy: Strategy::OneByOne,
            release: None,
            deploy_timeout: 5,
            created_at: now,
            updated_at: now,
        });
        id
    }

    pub(crate) fn add_release(&mut self, new: NewRelease) -> Release {
        let release = Release {
            id: ReleaseId::random(),
            app_id: new.app_id,
            artifacts: new.artifacts,
            env: new.env,
            meta: new.meta,
            processes: new.processes,
            created_at: self.now(),
        };
        self.releases.insert(0, release.clone());
        release
    }

    pub(crate) fn set_current(&mut self, release: ReleaseId) {
        let app_id = self.releases.iter().find(|r| r.id == release).and_then(|r| r.app_id);
        let app = self.apps.iter_mut().find(|app| Some(app.id) == app_id);
        app.expect("the release is of an app").release = Some(release);
    }

    pub(crate) fn app(&self, name: &str) -> Option<App> {
        self.apps.iter().find(|a| a.name == name || a.id.to_string() == name).cloned()
    }

    /// Makes and stops jobs, as the scheduler would.
    pub(crate) fn apply(&mut self, app: AppId, release: ReleaseId, wanted: &BTreeMap<String, u32>) {
        for (kind, &wanted) in wanted {
            let live = |job: &&mut Job| {
                job.kind == *kind && matches!(job.state, JobState::Starting | JobState::Up)
            };
            let running = self.jobs.iter_mut().filter(live).count();
            let surplus = running.saturating_sub(wanted as usize);
            self.jobs
                .iter_mut()
                .filter(live)
                .take(surplus)
                .for_each(|j| j.state = JobState::Stopping);
            for _ in running..wanted as usize {
                self.add_job(app, release, kind, JobState::Starting);
            }
        }
        let now = self.now();
        self.formations.retain(|f| f.release != release);
        let processes = wanted.clone();
        self.formations.push(Formation {
            tags: BTreeMap::new(),
            app,
            release,
            processes,
            created_at: now,
            updated_at: now,
        });
    }

    pub(crate) fn add_job(
        &mut self,
        app: AppId,
        release: ReleaseId,
        kind: &str,
        state: JobState,
    ) -> String {
        let uuid = JobId::random();
        let id = format!("host-1-{uuid}");
        let now = Some(self.now());
        self.jobs.push(Job {
            id: id.clone(),
            uuid,
            host_id: Some("host-1".into()),
            app,
            release,
            kind: kind.into(),
            state,
            args: vec![],
            exit_status: None,
            host_error: None,
            end_reason: None,
            run_at: None,
            restarts: 0,
            created_at: now,
            updated_at: now,
        });
        id
    }

    /// One step of every job.
    pub(crate) fn advance(&mut self) {
        let mut replace = Vec::new();
        for job in &mut self.jobs {
            match (job.state, &self.crash) {
                (JobState::Starting, Some(why)) => {
                    job.state = JobState::Crashed;
                    job.host_error = Some(why.clone());
                    replace.push((job.app, job.release, job.kind.clone()));
                }
                (JobState::Starting, None) => job.state = JobState::Up,
                (JobState::Stopping, _) => job.state = JobState::Down,
                _ => continue,
            }
            let _ = self.events.send(None);
        }
        for (app, release, kind) in replace {
            self.add_job(app, release, &kind, JobState::Starting);
        }
    }
}

pub(crate) fn deployment(
    app: AppId,
    old_release: Option<ReleaseId>,
    new_release: ReleaseId,
    status: DeploymentStatus,
    now: Timestamp,
) -> Deployment {
    Deployment {
        id: DeploymentId::random(),
        app,
        old_release,
        new_release,
        strategy: Strategy::OneByOne,
        status,
        processes: BTreeMap::new(),
        deploy_timeout: 5,
        error: None,
        created_at: now,
        finished_at: None,
    }
}
