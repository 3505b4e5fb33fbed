//! Plans: properties over arbitrary clusters, then single cases.

mod cases;
mod places;
mod properties;
mod views;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use api::{
    controller::{
        self, App, Artifact, ArtifactType, ExpandedFormation, ProcessType, Release, VolumeReq,
    },
    discoverd::Term,
    expand::volume_name,
    host::{EndReason, Limits, Volume},
    id::{AppId, JobId},
};
use jiff::{SignedDuration, Timestamp};
use sampi::Room;
use uuid::Uuid;

use super::{
    HostView, Place, Plan, Snapshot, View,
    job::{Ending, JobView, Kind, META_REPLACES, Owner, Phase},
    merge, plan,
};

/// Memory of a job, so that a few fill a host.
const MEMORY: u64 = 1 << 30;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn id(n: u128) -> JobId {
    uuid(n).into()
}

fn kind(app: u8, name: &str) -> Kind {
    Kind::new(uuid(app.into()).into(), uuid(100 + u128::from(app)).into(), name)
}

/// The formation of an app's one release: how many of each type, and whether it is omni.
fn formation(app: u8, processes: &[(&str, u32, bool)]) -> Arc<ExpandedFormation> {
    let Kind { app: app_id, release, .. } = kind(app, "");
    let types = processes
        .iter()
        .map(|&(name, _, omni)| (name.to_owned(), ProcessType { omni, ..ProcessType::default() }));
    Arc::new(ExpandedFormation {
        app: App {
            id: app_id,
            name: format!("app{app}"),
            meta: BTreeMap::new(),
            strategy: controller::Strategy::OneByOne,
            release: None,
            deploy_timeout: 120,
            created_at: ago(1000),
            updated_at: ago(1000),
        },
        release: Release {
            id: release,
            app_id: Some(app_id),
            artifacts: Vec::new(),
            env: BTreeMap::new(),
            meta: BTreeMap::new(),
            processes: types.collect(),
            created_at: ago(1000),
        },
        artifacts: vec![Artifact {
            id: uuid(7).into(),
            kind: ArtifactType::Docker,
            uri: "docker:///flynn/slugrunner".into(),
            meta: BTreeMap::new(),
            created_at: ago(1000),
        }],
        processes: processes.iter().map(|&(name, count, _)| (name.to_owned(), count)).collect(),
        tags: BTreeMap::new(),
        updated_at: ago(1000),
    })
}

fn job(kind: Kind, phase: Phase) -> JobView {
    let limits = Limits { memory: MEMORY, cpu: 0, ..Limits::default() };
    let mut job = JobView::ordered(&BTreeMap::new(), &limits);
    job.owner = Owner::Process(kind);
    job.created_at = (phase != Phase::Ordered).then(|| ago(600));
    job.phase = phase;
    job
}

fn crashed(at: Timestamp) -> Phase {
    Phase::Ended(Ending {
        at,
        started_at: Some(at),
        asked: false,
        crashed: true,
        forgotten: false,
        reason: None,
        exit_status: Some(1),
        error: None,
    })
}

/// Ended for a reason of its host's.
fn refused(at: Timestamp) -> Phase {
    let Phase::Ended(ending) = crashed(at) else { unreachable!() };
    Phase::Ended(Ending { started_at: None, reason: Some(EndReason::Refused), ..ending })
}

/// A formation whose processes of these types keep data.
fn with_volumes(formation: &ExpandedFormation, types: &[&str]) -> Arc<ExpandedFormation> {
    let mut formation = formation.clone();
    for (name, process) in &mut formation.release.processes {
        if types.contains(&name.as_str()) {
            process.volumes = vec![VolumeReq { path: "/data".into(), shared: false }];
        }
    }
    Arc::new(formation)
}

/// The volume that such a process has.
fn volume(kind: &Kind) -> Volume {
    let name = volume_name(kind.app, &kind.name, "/data");
    Volume { name, path: "/data".into(), shared: false }
}

fn bound(kind: Kind, phase: Phase) -> JobView {
    JobView { volumes: vec![volume(&kind)], ..job(kind, phase) }
}

/// A host with room for `slots` jobs and these on it.
fn host(slots: u64, jobs: impl IntoIterator<Item = (JobId, JobView)>) -> HostView {
    let jobs: BTreeMap<JobId, JobView> = jobs.into_iter().collect();
    let mut room = Room { memory: slots * MEMORY, cpu: u64::MAX, addresses: 1000 };
    jobs.values().filter(|job| job.ending().is_none()).for_each(|job| room.take(&job.limits));
    let jobs = Arc::new(jobs);
    HostView {
        version: 1,
        room,
        connected: true,
        draining: false,
        full: false,
        slow: false,
        tags: BTreeMap::new(),
        jobs,
    }
}

fn snapshot(
    hosts: impl IntoIterator<Item = (String, HostView)>,
    formations: impl IntoIterator<Item = Arc<ExpandedFormation>>,
) -> Snapshot {
    let mut by_app: super::Formations = BTreeMap::new();
    for formation in formations {
        let releases = by_app.entry(formation.app.id).or_default();
        releases.insert(formation.release.id, formation);
    }
    Snapshot {
        now: now(),
        seed: uuid(42),
        term: Term { epoch: 1, revision: 1 },
        hosts: hosts.into_iter().collect(),
        formations: Arc::new(by_app),
        stops: BTreeSet::new(),
        waited: Vec::new(),
        life: Uuid::nil(),
        replaced: BTreeSet::new(),
        attempts: BTreeMap::new(),
        volumes: BTreeMap::new(),
        ordering: BTreeSet::new(),
        left_over: BTreeSet::new(),
        places: BTreeMap::new(),
    }
}

impl Snapshot {
    /// The cluster after a plan was carried out and its jobs came up; what was stopped has not ended yet.
    fn apply(&self, plan: &Plan) -> Self {
        let mut after = self.clone();
        after.waited = plan.waiting.clone();
        after.seed = uuid(43);
        for (id, host) in &mut after.hosts {
            let jobs = Arc::make_mut(&mut host.jobs);
            for stop in plan.stop.get(id).into_iter().flatten() {
                let job = jobs.get_mut(stop).expect("what is stopped is there");
                job.phase = Phase::Stopping;
                job.resurrect = false;
            }
            for start in plan.start.get(id).into_iter().flatten() {
                let mut job = JobView::ordered(&start.metadata, &start.limits);
                job.phase = Phase::Up;
                job.created_at = Some(self.now);
                job.restarts = start.restarts;
                job.volumes = start.config.volumes.clone();
                host.room.take(&start.limits);
                assert!(jobs.insert(start.id, job).is_none(), "a new job has a new id");
            }
        }
        after
    }

    /// The cluster after all that was stopping has ended.
    fn stopped(&self) -> Self {
        let mut after = self.clone();
        for host in after.hosts.values_mut() {
            let jobs = Arc::make_mut(&mut host.jobs);
            let over = jobs.extract_if(.., |_, job| job.phase == Phase::Stopping);
            host.room.memory += over.map(|(_, job)| job.limits.memory).sum::<u64>();
        }
        after
    }

    /// How many of a kind count on each host.
    fn running(&self, kind: &Kind) -> BTreeMap<&str, u32> {
        let on = |host: &HostView| {
            let jobs = host.jobs.iter().filter(|(id, job)| {
                let alive = matches!(job.phase, Phase::Ordered | Phase::Starting | Phase::Up);
                job.kind() == Some(kind) && alive && !self.stops.contains(id)
            });
            u32::try_from(jobs.count()).unwrap()
        };
        self.hosts.iter().map(|(id, host)| (id.as_str(), on(host))).collect()
    }

    fn kinds(&self) -> BTreeMap<Kind, (u32, bool)> {
        let formations = self.formations.values().flat_map(BTreeMap::values);
        formations
            .flat_map(|f| {
                f.processes.iter().map(|(name, &count)| {
                    let kind = Kind::new(f.app.id, f.release.id, name.clone());
                    (kind, (count, f.release.processes[name].omni))
                })
            })
            .collect()
    }
}

fn app(n: u8) -> AppId {
    uuid(n.into()).into()
}
