//! A scheduler with a host of its own, driven by the formation stream. Jobs do what their release's meta `behaviour` says,
//! unless a test says otherwise meanwhile: `serve`, `crash`, `deaf` (never pass the check), `hold` (start and do nothing
//! more), `refuse` (no host takes them, five times, then they serve), `lose` (their host is gone, five times, then they
//! serve), `late` (they serve, and then what was before comes again, out of order), `again` (they serve as the ninth try of
//! what crashed before), `resurrect` (their host starts them again and again).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use api::{
    controller::{ExpandedFormation, Job, JobState},
    host::EndReason,
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
    /// What jobs of a release do, whatever its meta says.
    pub(crate) behaviours: Mutex<BTreeMap<ReleaseId, &'static str>>,
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
        let told = self.behaviours.lock().unwrap().get(&formation.release.id).copied();
        let meta = formation.release.meta.get("behaviour").map_or("serve", String::as_str);
        let of_kind = |kind: &String| {
            let own = formation.release.meta.get(&format!("behaviour.{kind}"));
            told.or(own.map(String::as_str)).unwrap_or(meta).to_owned()
        };
        for kind in formation.release.processes.keys() {
            let key = (formation.app.id, formation.release.id, kind.clone());
            let wanted = formation.processes.get(kind).copied().unwrap_or_default() as usize;
            let mut jobs = self.running.lock().unwrap().remove(&key).unwrap_or_default();
            while jobs.len() > wanted {
                let job = jobs.pop().unwrap();
                let end_reason = Some(EndReason::Stopped);
                let down = Job { state: JobState::Down, end_reason, ..job };
                controller.put_job(&down).await.unwrap();
            }
            while jobs.len() < wanted {
                let Some(job) = start(controller, &key, &of_kind(kind)).await else { break };
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

/// A job that starts on the host.
pub(crate) fn job(app: AppId, release: ReleaseId, kind: &str) -> Job {
    let uuid = JobId::random();
    Job {
        id: format!("{HOST}-{uuid}"),
        uuid,
        host_id: Some(HOST.into()),
        app,
        release,
        kind: kind.into(),
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
}

fn ended(job: Job, host_error: Option<String>, end_reason: Option<EndReason>) -> Job {
    Job { state: JobState::Crashed, host_error, end_reason, ..job }
}

async fn start(
    controller: &Controller,
    (app, release, kind): &Kind,
    behaviour: &str,
) -> Option<Job> {
    let new = || job(*app, *release, kind);
    let put = async |job: Job| controller.put_job(&job).await.unwrap();
    match behaviour {
        "crash" => {
            for restarts in 0..CRASHES {
                let job = put(Job { restarts, ..new() }).await;
                let error = Some("its process ended with status 1".into());
                let reason = Some(EndReason::Exited);
                put(Job { exit_status: Some(1), ..ended(job, error, reason) }).await;
            }
            None
        }
        "refuse" | "lose" => {
            let (why, reason) = match behaviour {
                "refuse" => ("the host has no room", EndReason::Refused),
                _ => ("its host is gone, or no longer knows it", EndReason::HostLost),
            };
            for restarts in 0..5 {
                let job = put(Job { restarts, ..new() }).await;
                put(ended(job, Some(why.into()), Some(reason))).await;
            }
            let job = put(Job { restarts: 5, ..new() }).await;
            Some(put(Job { state: JobState::Up, ..job }).await)
        }
        "late" => {
            let before = put(new()).await;
            let over = ended(before.clone(), None, Some(EndReason::Stopped));
            put(Job { state: JobState::Down, ..over }).await;
            // Told by a scheduler that led before.
            put(Job { state: JobState::Up, ..before }).await;
            let job = put(new()).await;
            Some(put(Job { state: JobState::Up, ..job }).await)
        }
        "again" => {
            let job = put(Job { restarts: 9, ..new() }).await;
            Some(put(Job { state: JobState::Up, ..job }).await)
        }
        "resurrect" => {
            let job = put(new()).await;
            for restarts in 1..=CRASHES {
                put(Job { restarts, end_reason: Some(EndReason::Exited), ..job.clone() }).await;
            }
            Some(job)
        }
        "deaf" => {
            let job = put(new()).await;
            let error =
                Some("it did not pass its check within 60s: nothing listens on 8080".into());
            let reason = Some(EndReason::CheckNeverPassed);
            put(Job { exit_status: Some(143), ..ended(job, error, reason) }).await;
            None
        }
        "hold" => Some(put(new()).await),
        _ => {
            let job = put(new()).await;
            Some(put(Job { state: JobState::Up, ..job }).await)
        }
    }
}
