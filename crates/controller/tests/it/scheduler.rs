//! A scheduler with a host of its own, driven by the formation stream. Jobs do what their release's meta `behaviour` says:
//! `serve`, `crash`, `deaf` (never pass the check) or `hold` (start and do nothing more).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use api::{
    controller::{ExpandedFormation, Job, JobState},
    id::{AppId, JobId, ReleaseId},
};
use controller_client::Controller;
use daemon::Lifetime;
use futures_util::{StreamExt, pin_mut};

use crate::neighbours::HOST;

/// Times a crashing job is started again.
const CRASHES: u32 = 3;

type Kind = (AppId, ReleaseId, String);

#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    running: Mutex<BTreeMap<Kind, Vec<Job>>>,
    /// Most and fewest that served at a time, by app, since the first did.
    pub(crate) serving: Mutex<BTreeMap<AppId, Vec<usize>>>,
}

impl Scheduler {
    pub(crate) fn start(lifetime: &Lifetime, controller: &Controller) -> Arc<Self> {
        let scheduler = Arc::new(Self::default());
        let (following, controller) = (scheduler.clone(), controller.clone());
        lifetime.spawn_request(async move {
            loop {
                following.follow(&controller).await;
                tokio::task::yield_now().await;
            }
        });
        scheduler
    }

    /// Lets what is held serve.
    pub(crate) async fn serve_held(&self, controller: &Controller) {
        let held: Vec<Job> = {
            let running = self.running.lock().unwrap();
            running
                .values()
                .flatten()
                .filter(|job| job.state == JobState::Starting)
                .cloned()
                .collect()
        };
        for job in held {
            let up = Job { state: JobState::Up, ..job.clone() };
            controller.put_job(&up).await.unwrap();
            for known in self.running.lock().unwrap().values_mut().flatten() {
                if known.uuid == job.uuid {
                    known.state = JobState::Up;
                }
            }
        }
    }

    async fn follow(&self, controller: &Controller) {
        let Ok(formations) = controller.stream_formations(None).await else { return };
        pin_mut!(formations);
        while let Some(Ok(formation)) = formations.next().await {
            if let Some(formation) = formation {
                self.reconcile(controller, &formation).await;
            }
        }
    }

    async fn reconcile(&self, controller: &Controller, formation: &ExpandedFormation) {
        let behaviour = formation.release.meta.get("behaviour").map_or("serve", String::as_str);
        for kind in formation.release.processes.keys() {
            let key = (formation.app.id, formation.release.id, kind.clone());
            let wanted = formation.processes.get(kind).copied().unwrap_or_default() as usize;
            let mut jobs = self.running.lock().unwrap().remove(&key).unwrap_or_default();
            while jobs.len() > wanted {
                let job = jobs.pop().unwrap();
                controller.put_job(&Job { state: JobState::Down, ..job }).await.unwrap();
            }
            while jobs.len() < wanted {
                let Some(job) = start(controller, &key, behaviour).await else { break };
                jobs.push(job);
            }
            self.running.lock().unwrap().insert(key, jobs);
        }
        let running = self.running.lock().unwrap();
        let up = running.iter().filter(|(key, _)| key.0 == formation.app.id);
        let up = up.flat_map(|(_, jobs)| jobs).filter(|job| job.state == JobState::Up).count();
        self.serving.lock().unwrap().entry(formation.app.id).or_default().push(up);
    }
}

async fn start(
    controller: &Controller,
    (app, release, kind): &Kind,
    behaviour: &str,
) -> Option<Job> {
    let new = || {
        let uuid = JobId::random();
        Job {
            id: format!("{HOST}-{uuid}"),
            uuid,
            host_id: Some(HOST.into()),
            app: *app,
            release: *release,
            kind: kind.clone(),
            state: JobState::Starting,
            args: vec![],
            exit_status: None,
            host_error: None,
            end_reason: None,
            run_at: None,
            restarts: 0,
            created_at: None,
            updated_at: None,
        }
    };
    let put = async |job: Job| controller.put_job(&job).await.unwrap();
    match behaviour {
        "crash" => {
            for _ in 0..CRASHES {
                let job = put(new()).await;
                let error = Some("its process ended with status 1".into());
                put(Job {
                    state: JobState::Crashed,
                    exit_status: Some(1),
                    host_error: error,
                    ..job
                })
                .await;
            }
            None
        }
        "deaf" => {
            let job = put(new()).await;
            let error =
                Some("it did not pass its check within 60s: nothing listens on 8080".into());
            put(Job { state: JobState::Crashed, exit_status: Some(143), host_error: error, ..job })
                .await;
            None
        }
        "hold" => Some(put(new()).await),
        _ => {
            let job = put(new()).await;
            Some(put(Job { state: JobState::Up, ..job }).await)
        }
    }
}
