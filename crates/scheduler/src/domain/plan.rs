//! What to change: the one place where that is decided.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use api::{
    controller::ExpandedFormation, discoverd::Term, expand::process_job, host::Job, id::JobId,
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{
    backoff::{self, Replacement},
    job::{Ending, JobView, Kind, META_REPLACES, Owner, Phase},
    placement::Placement,
    snapshot::Snapshot,
};

/// A host restarts its `resurrect` jobs itself. One that it still lists is given up as lost after so long.
const RESURRECTION_LIMIT: SignedDuration = SignedDuration::from_secs(120);

/// A `resurrect` job that its host no longer lists is given up after so long.
const FORGOTTEN_LIMIT: SignedDuration = SignedDuration::from_secs(10);

/// What to change, with nothing left to decide.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Term of the state it was made from.
    pub term: Term,
    /// Versions of the hosts it touches.
    pub based_on: BTreeMap<String, u64>,
    /// Jobs to start, by host.
    #[serde(skip)]
    pub start: BTreeMap<String, Vec<Job>>,
    /// Jobs to stop, by host.
    pub stop: BTreeMap<String, Vec<JobId>>,
    /// What should run and cannot yet, with the reason.
    pub waiting: Vec<Waiting>,
    /// When a waiting job's time comes.
    pub wake_at: Option<Timestamp>,
    /// Jobs of apps that the controller never listed: left alone.
    pub foreign: BTreeSet<JobId>,
}

/// A job that should run and cannot yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// The id it will have.
    pub id: JobId,
    /// What it is.
    pub kind: Kind,
    /// The host it waits for, if it is an omni process.
    pub only: Option<String>,
    /// Why it waits, as a sentence.
    pub reason: String,
    /// When it is tried again; absent: as soon as there is room.
    pub run_at: Option<Timestamp>,
    /// Times it was started again.
    pub restarts: u32,
}

/// A job that counts.
#[derive(Debug, Clone, Copy)]
struct Present<'a> {
    host: &'a str,
    id: JobId,
    job: &'a JobView,
}

/// One process that is missing.
#[derive(Debug, Clone, Copy)]
struct Missing<'a> {
    /// Omni processes are missing on one host.
    only: Option<&'a str>,
    /// What ended and was not replaced yet.
    ended: Option<(JobId, &'a JobView, &'a Ending)>,
}

/// Decides what to change. Never waits, never reads a clock, never draws a random number.
pub fn plan(snapshot: &Snapshot) -> Plan {
    let mut planner = Planner::new(snapshot);
    let wanted = snapshot.formations.values().flat_map(BTreeMap::values).flat_map(|formation| {
        formation.processes.keys().map(|name| Kind {
            app: formation.app.id,
            release: formation.release.id,
            name: name.clone(),
        })
    });
    let kinds: BTreeSet<Kind> = wanted.chain(planner.present.keys().cloned()).collect();
    for kind in &kinds {
        planner.settle(kind);
    }
    planner.plan
}

struct Planner<'a> {
    snapshot: &'a Snapshot,
    present: BTreeMap<Kind, Vec<Present<'a>>>,
    /// Jobs that ended unasked and were not replaced, newest first.
    ended: BTreeMap<&'a Kind, Vec<(&'a str, JobId, &'a JobView, &'a Ending)>>,
    placement: Placement<'a>,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let counts = |id: JobId, job: &JobView| counts(snapshot, id, job);
        let mut planner = Self {
            snapshot,
            present: BTreeMap::new(),
            ended: BTreeMap::new(),
            placement: Placement::new(snapshot, counts),
            plan: Plan { term: snapshot.term, ..Plan::default() },
        };
        let jobs = || {
            let hosts = snapshot.hosts.iter();
            hosts.flat_map(|(host, view)| view.jobs.iter().map(move |(id, job)| (host, *id, job)))
        };
        let replaced = jobs().filter_map(|(_, _, job)| job.replaces);
        let replaced: BTreeSet<JobId> = replaced.chain(snapshot.replaced.iter().copied()).collect();
        for (host, id, job) in jobs() {
            let Owner::Process(kind) = &job.owner else { continue };
            if !snapshot.formations.contains_key(&kind.app) {
                if job.ending().is_none() {
                    planner.plan.foreign.insert(id);
                }
            } else if counts(id, job) {
                planner.present.entry(kind.clone()).or_default().push(Present { host, id, job });
            } else if let Some(ending) = job.ending()
                && !ending.asked
                && !replaced.contains(&id)
            {
                planner.ended.entry(kind).or_default().push((host, id, job, ending));
            }
        }
        for ended in planner.ended.values_mut() {
            ended.sort_unstable_by_key(|&(_, id, _, ending)| (Reverse(ending.at), id));
        }
        planner
    }

    /// Brings one kind to what its formation says.
    fn settle(&mut self, kind: &Kind) {
        let formation = self.snapshot.formation(kind).map(AsRef::as_ref);
        let wanted = formation.and_then(|f| f.processes.get(&kind.name)).copied().unwrap_or(0);
        let omni = formation
            .and_then(|f| f.release.processes.get(&kind.name))
            .is_some_and(|process| process.omni);
        let present = self.present.get(kind).cloned().unwrap_or_default();
        let ended = self.ended.get(kind).cloned().unwrap_or_default();
        if !omni || wanted == 0 {
            self.settle_count(kind, formation, wanted as usize, present, &ended, None);
            return;
        }
        for host in self.snapshot.hosts.keys() {
            let here = present.iter().filter(|job| job.host == host).copied().collect();
            let ended: Vec<_> = ended.iter().filter(|ended| ended.0 == host).copied().collect();
            self.settle_count(kind, formation, 1, here, &ended, Some(host));
        }
    }

    fn settle_count(
        &mut self,
        kind: &Kind,
        formation: Option<&ExpandedFormation>,
        wanted: usize,
        present: Vec<Present<'a>>,
        ended: &[(&'a str, JobId, &'a JobView, &'a Ending)],
        only: Option<&'a str>,
    ) {
        let (leaving, present): (Vec<_>, Vec<_>) = present.into_iter().partition(|present| {
            only.is_none() && !present.job.bound && self.snapshot.hosts[present.host].draining
        });
        // What is to leave its host serves until something serves in its place.
        let serving = present.iter().filter(|present| present.job.phase == Phase::Up).count();
        self.stop(leaving, wanted.saturating_sub(serving));
        if present.len() >= wanted {
            self.stop(present, wanted);
            return;
        }
        let Some(formation) = formation else { return };
        let missing = wanted - present.len();
        let ended_count = ended.len();
        let replacements = ended.iter().map(|&(_, id, job, ending)| Some((id, job, ending)));
        let fresh = std::iter::repeat(None);
        for (n, ended) in replacements.chain(fresh).take(missing).enumerate() {
            let n = n.saturating_sub(ended_count);
            self.start(kind, formation, n, Missing { only, ended });
        }
    }

    /// Stops what is more than wanted: first what does not serve yet, then the newest.
    fn stop(&mut self, mut present: Vec<Present<'a>>, wanted: usize) {
        present.sort_unstable_by_key(|&Present { id, job, .. }| {
            (job.phase == Phase::Up, Reverse(job.created_at), id)
        });
        for surplus in present.iter().take(present.len().saturating_sub(wanted)) {
            self.touch(surplus.host);
            self.plan.stop.entry(surplus.host.into()).or_default().push(surplus.id);
        }
    }

    /// Starts one process, or says why not yet.
    fn start(
        &mut self,
        kind: &Kind,
        formation: &ExpandedFormation,
        n: usize,
        missing: Missing<'a>,
    ) {
        let wait = missing.ended.map(|(_, job, ending)| backoff::replacement(job, ending));
        let id = match missing.ended {
            Some((ended, ..)) => self.snapshot.replacement_id(ended),
            None => self.fresh_id(kind, n, missing.only),
        };
        let restarts = wait.map_or(0, |wait| wait.restarts);
        let only = missing.only.map(str::to_owned);
        let waiting =
            |reason, run_at| Waiting { id, kind: kind.clone(), only, reason, run_at, restarts };
        if let (Some(wait), Some((_, _, ending))) = (wait, missing.ended)
            && wait.not_before > self.snapshot.now
        {
            self.wake_at(wait);
            let reason = backoff::reason(ending, wait);
            self.plan.waiting.push(waiting(reason, Some(wait.not_before)));
            return;
        }
        let placed = self.job(kind, formation, id, missing, restarts).and_then(|job| {
            let place = &mut self.placement;
            Ok((place.place(kind.app, &kind.name, &job, missing.only)?, job))
        });
        match placed {
            Ok((host, job)) => {
                self.touch(host);
                self.plan.start.entry(host.into()).or_default().push(job);
            }
            Err(reason) => self.plan.waiting.push(waiting(reason, None)),
        }
    }

    fn job(
        &self,
        kind: &Kind,
        formation: &ExpandedFormation,
        id: JobId,
        missing: Missing<'_>,
        restarts: u32,
    ) -> Result<Job, String> {
        let ExpandedFormation { app, release, artifacts, .. } = formation;
        let mut job = process_job(id, app, release, artifacts, &kind.name)
            .map_err(|err| format!("it cannot be run: {err}"))?;
        job.restarts = restarts;
        if let Some((ended, ..)) = missing.ended {
            job.metadata.insert(META_REPLACES.into(), ended.to_string());
        }
        Ok(job)
    }

    /// The id the last plan gave the `n`th new job of a kind if it waited, so that a person sees one job wait and not
    /// many; else a new one.
    fn fresh_id(&self, kind: &Kind, n: usize, only: Option<&str>) -> JobId {
        let waited = self.snapshot.waited.iter().filter(|waited| {
            waited.kind == *kind && waited.only.as_deref() == only && waited.restarts == 0
        });
        match waited.map(|waited| waited.id).nth(n) {
            Some(id) => id,
            None => self.snapshot.new_id(kind, only, n),
        }
    }

    fn wake_at(&mut self, wait: Replacement) {
        let earliest = self.plan.wake_at.map_or(wait.not_before, |at| at.min(wait.not_before));
        self.plan.wake_at = Some(earliest);
    }

    fn touch(&mut self, host: &str) {
        let version = self.snapshot.hosts[host].version;
        self.plan.based_on.insert(host.into(), version);
    }
}

/// Whether a job counts towards what is wanted.
fn counts(snapshot: &Snapshot, id: JobId, job: &JobView) -> bool {
    match &job.phase {
        Phase::Ordered | Phase::Starting | Phase::Up => !snapshot.stops.contains(&id),
        Phase::Stopping => false,
        Phase::Ended(ending) => {
            let limit = if ending.forgotten { FORGOTTEN_LIMIT } else { RESURRECTION_LIMIT };
            job.resurrect && !ending.asked && snapshot.now.duration_since(ending.at) <= limit
        }
    }
}

impl Plan {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.start.is_empty() && self.stop.is_empty()
    }
}
