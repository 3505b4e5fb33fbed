//! What the controller is told of jobs.

use std::collections::BTreeMap;

use api::{
    controller::{Job, JobState},
    id::{ClusterJobId, JobId},
};

use super::{
    job::{JobView, Kind, Owner, Phase},
    plan::Plan,
    snapshot::Snapshot,
};

/// Every job the controller should know of, as it is now; `None` for one of which nothing new is known. Process jobs of
/// apps it never listed are not its business.
pub type Reports = BTreeMap<JobId, Option<Job>>;

/// What to tell the controller.
pub fn reports(snapshot: &Snapshot, plan: &Plan) -> Reports {
    let mut reports = BTreeMap::new();
    for (host, view) in &snapshot.hosts {
        for (&id, job) in view.jobs.iter() {
            if let Some(report) = of_job(snapshot, host, id, job) {
                // A host that does not answer may have started it long ago, and one that was just asked may refuse.
                let untold = job.phase == Phase::Ordered
                    && (!view.connected || snapshot.ordering.contains(&id));
                reports.insert(id, (!untold).then_some(report));
            }
        }
    }
    for waiting in &plan.waiting {
        let Kind { app, release, name, .. } = &waiting.kind;
        let report = Job {
            id: waiting.id.to_string(),
            uuid: waiting.id,
            host_id: None,
            app: *app,
            release: *release,
            kind: name.clone(),
            state: JobState::Pending,
            args: Vec::new(),
            exit_status: None,
            host_error: Some(waiting.sentence()),
            end_reason: None,
            run_at: waiting.run_at,
            restarts: waiting.restarts,
            created_at: None,
            updated_at: None,
        };
        reports.entry(waiting.id).or_insert(Some(report));
    }
    // One that waited and is started now is not gone, although no host has told of it yet.
    for job in plan.start.values().flatten() {
        reports.entry(job.id).or_insert(None);
    }
    reports
}

fn of_job(snapshot: &Snapshot, host: &str, id: JobId, job: &JobView) -> Option<Job> {
    let (app, release, kind) = match &job.owner {
        Owner::Process(Kind { app, release, name, .. }) => {
            snapshot.formations.contains_key(app).then_some(())?;
            (*app, *release, name.clone())
        }
        Owner::OneOff { app, release } => (*app, *release, String::new()),
        Owner::Other => return None,
    };
    let ending = job.ending();
    Some(Job {
        id: ClusterJobId { host: host.into(), job: id }.to_string(),
        uuid: id,
        host_id: Some(host.into()),
        app,
        release,
        kind,
        state: state(&job.phase),
        args: job.args.clone(),
        exit_status: ending.and_then(|ending| ending.exit_status),
        host_error: match ending {
            Some(ending) if !ending.crashed => None,
            Some(ending) => ending.error.clone(),
            None => job.error.clone(),
        },
        end_reason: ending.and_then(|ending| ending.reason),
        run_at: None,
        restarts: job.restarts,
        created_at: job.created_at,
        updated_at: None,
    })
}

fn state(phase: &Phase) -> JobState {
    match phase {
        Phase::Ordered | Phase::Starting => JobState::Starting,
        Phase::Up => JobState::Up,
        Phase::Stopping => JobState::Stopping,
        Phase::Ended(ending) if ending.crashed => JobState::Crashed,
        Phase::Ended(_) => JobState::Down,
    }
}
