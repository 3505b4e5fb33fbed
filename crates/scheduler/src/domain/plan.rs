//! What to change: the one place where that is decided.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use api::{
    controller::ExpandedFormation,
    discoverd::Term,
    expand::{ExpandError, process_job},
    host::Job,
    id::JobId,
};
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::{
    backoff::{self, Replacement},
    census::{Cast, Census, Ended, Key, Present, leaves},
    homes::Homes,
    job::{Kind, META_REPLACES, Phase},
    placement::{HostIndex, Placement, Spread, Tags, has_tags},
    snapshot::{HostView, Place, Snapshot},
};

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
    /// Jobs that were let take another's place, and what has become of it.
    pub places: BTreeMap<JobId, Place>,
    /// Jobs of apps that the controller never listed: left alone.
    pub foreign: BTreeSet<JobId>,
}

/// A job that should run and cannot yet, and all others of its kind that wait for the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// The id it will have.
    pub id: JobId,
    /// How many wait, with this one.
    pub count: u32,
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

impl Waiting {
    /// How many wait if it is not one, and why.
    pub fn sentence(&self) -> String {
        match self.count {
            1 => self.reason.clone(),
            count => format!("+{} wait: {}", with_commas(count), self.reason),
        }
    }
}

fn with_commas(count: u32) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What is to be started: one of these for all of a kind.
struct Wish<'k> {
    kind: &'k Kind,
    /// The job, but for its id.
    job: Result<Job, ExpandError>,
    /// Where it may run.
    tags: Option<&'k Tags>,
}

/// One process that is missing.
#[derive(Debug, Clone, Copy)]
struct Missing<'a> {
    /// Omni processes are missing on one host.
    only: Option<HostIndex>,
    /// What it replaces.
    ended: Option<Ended<'a>>,
}

/// Decides what to change. Never waits, never reads a clock, never draws a random number.
pub fn plan(snapshot: &Snapshot) -> Plan {
    let census = Census::new(snapshot);
    let mut casts = census.casts();
    // What Flynn consists of has its room before the apps that it runs; of the others the order stays.
    casts.sort_by_cached_key(|((app, ..), _)| !snapshot.is_system(*app));
    let mut planner = Planner::new(snapshot, &census);
    planner.plan.places.clone_from(&census.places);
    planner.plan.wake_at = census.unconfirmed_until;
    planner.plan.foreign = census.foreign.iter().copied().collect();
    for &(host, job) in &census.left_over {
        planner.hosts[host].stop.push(job);
    }
    for same_spread in casts.chunk_by(|(a, _), (b, _)| (a.0, a.1) == (b.0, b.1)) {
        let present = || same_spread.iter().flat_map(|(_, cast)| &cast.present);
        let failed_on = same_spread.iter().flat_map(|(_, cast)| &cast.failed_on).copied();
        let mut spread = Spread::new(present().map(|present| present.host), failed_on.collect());
        // Of a job that was just ordered it is not known yet which volumes it has.
        let untold =
            |present: &&Present<'_>| present.job.phase == Phase::Ordered && !present.job.is_bound();
        planner.homes.untold = present().find(untold).map(|present| (present.host, present.id));
        for (key, cast) in same_spread {
            planner.settle(*key, cast, &mut spread);
        }
    }
    planner.finish()
}

struct Planner<'a> {
    snapshot: &'a Snapshot,
    /// The hosts with what is started and stopped on each.
    hosts: Vec<Orders<'a>>,
    placement: Placement<'a>,
    homes: Homes<'a>,
    /// Ids of new jobs that waited in the last plan, by kind and host.
    waited: HashMap<(&'a Kind, Option<&'a str>), Vec<JobId>>,
    plan: Plan,
}

struct Orders<'a> {
    id: &'a str,
    view: &'a HostView,
    start: Vec<Job>,
    stop: Vec<JobId>,
}

impl<'a> Planner<'a> {
    fn new(snapshot: &'a Snapshot, census: &Census<'a>) -> Self {
        let orders = |(id, view)| Orders { id, view, start: Vec::new(), stop: Vec::new() };
        let hosts = snapshot.hosts.iter().map(|(id, view)| orders((id.as_str(), view)));
        let mut waited: HashMap<_, Vec<JobId>> = HashMap::new();
        for one in snapshot.waited.iter().filter(|waiting| waiting.restarts == 0) {
            waited.entry((&one.kind, one.only.as_deref())).or_default().push(one.id);
        }
        Self {
            snapshot,
            hosts: hosts.collect(),
            placement: Placement::new(snapshot, &census.in_trouble()),
            homes: Homes::new(snapshot, census),
            waited,
            plan: Plan { term: snapshot.term, ..Plan::default() },
        }
    }

    /// Brings one kind to what its formation says.
    fn settle(&mut self, (app, name, release): Key<'a>, cast: &Cast<'a>, spread: &mut Spread<'_>) {
        let kind = Kind::new(app, release, name);
        let formation = self.snapshot.formation(&kind).map(AsRef::as_ref);
        let wanted = formation.and_then(|f| f.processes.get(name)).copied().unwrap_or(0);
        let omni = formation
            .and_then(|f| f.release.processes.get(name))
            .is_some_and(|process| process.omni);
        if !omni || wanted == 0 {
            self.settle_count(&kind, formation, wanted as usize, cast, spread, None);
            return;
        }
        let mut by_host: Vec<Cast<'a>> = vec![Cast::default(); self.hosts.len()];
        for &present in &cast.present {
            by_host[present.host].present.push(present);
        }
        for &ended in &cast.ended {
            by_host[ended.host].ended.push(ended);
        }
        let tags = formation.and_then(|formation| formation.tags.get(name));
        for (host, cast) in by_host.iter().enumerate() {
            let wanted = usize::from(has_tags(self.hosts[host].view, tags));
            self.settle_count(&kind, formation, wanted, cast, spread, Some(host));
        }
    }

    fn settle_count(
        &mut self,
        kind: &Kind,
        formation: Option<&ExpandedFormation>,
        wanted: usize,
        Cast { present, ended, .. }: &Cast<'a>,
        spread: &mut Spread<'_>,
        only: Option<HostIndex>,
    ) {
        let tags = formation.and_then(|formation| formation.tags.get(&kind.name));
        let leaves = |present: &Present<'_>| {
            only.is_none() && leaves(self.hosts[present.host].view, present.job, tags)
        };
        let staying = present.iter().filter(|present| !leaves(present)).count();
        if staying < present.len() {
            // What is to leave its host serves until something serves in its place.
            let (leaving, present): (Vec<&Present<'_>>, Vec<_>) =
                present.iter().partition(|present| leaves(present));
            let serving = present.iter().filter(|present| present.job.phase == Phase::Up).count();
            self.stop(leaving, wanted.saturating_sub(serving));
            self.stop(present, wanted);
        } else if staying > wanted {
            self.stop(present.iter().collect(), wanted);
        }
        if staying >= wanted {
            return;
        }
        let Some(formation) = formation else { return };
        let ExpandedFormation { app, release, artifacts, .. } = formation;
        let job = process_job(Uuid::nil().into(), app, release, artifacts, &kind.name);
        self.start_all(&Wish { kind, job, tags }, wanted - staying, ended, spread, only);
    }

    /// Starts what is missing of a kind. What finds no place waits together: for all of it the answer is the same.
    fn start_all(
        &mut self,
        wish: &Wish<'_>,
        missing: usize,
        ended: &[Ended<'a>],
        spread: &mut Spread<'_>,
        only: Option<HostIndex>,
    ) {
        let replacements = ended.iter().copied().map(Some);
        let mut waits: Option<Waiting> = None;
        for (n, ended_one) in replacements.chain(std::iter::repeat(None)).take(missing).enumerate()
        {
            let fresh = n.saturating_sub(ended.len());
            let refused = self.start(wish, fresh, Missing { only, ended: ended_one }, spread);
            let Some(refused) = refused else { continue };
            waits.get_or_insert(Waiting { count: 0, ..refused }).count += 1;
            if ended_one.is_none() {
                let others = u32::try_from(missing - n - 1).unwrap_or(u32::MAX);
                waits.iter_mut().for_each(|waits| waits.count += others);
                break;
            }
        }
        self.plan.waiting.extend(waits);
    }

    /// Stops what is more than wanted: first what does not serve yet, then the newest.
    fn stop(&mut self, mut present: Vec<&Present<'a>>, wanted: usize) {
        if present.len() <= wanted {
            return;
        }
        present.sort_unstable_by_key(|Present { id, job, .. }| {
            (job.phase == Phase::Up, Reverse(job.created_at), *id)
        });
        for surplus in &present[..present.len() - wanted] {
            self.hosts[surplus.host].stop.push(surplus.id);
        }
    }

    /// Starts one process, or has it wait for its time. If it finds no place the answer says why.
    fn start(
        &mut self,
        wish: &Wish<'_>,
        n: usize,
        missing: Missing<'a>,
        spread: &mut Spread<'_>,
    ) -> Option<Waiting> {
        let Missing { only, ended } = missing;
        let kind = wish.kind;
        let wait = ended.map(|ended| backoff::replacement(ended.job, ended.ending));
        let only_id = only.map(|host| self.hosts[host].id);
        let id = match ended {
            Some(ended) => self.snapshot.replacement_id(ended.id),
            None => self.fresh_id(kind, n, only_id),
        };
        let restarts = wait.map_or(0, |wait| wait.restarts);
        let waiting = |reason, run_at| {
            let only = only_id.map(str::to_owned);
            Waiting { id, count: 1, kind: kind.clone(), only, reason, run_at, restarts }
        };
        if let (Some(wait), Some(ended)) = (wait, ended)
            && wait.not_before > self.snapshot.now
        {
            self.wake_at(wait);
            let reason = backoff::reason(ended.ending, wait);
            self.plan.waiting.push(waiting(reason, Some(wait.not_before)));
            return None;
        }
        match self.place(wish, only, spread) {
            Ok((host, job)) => {
                let mut job = Job { id, restarts, ..job.clone() };
                if let Some(ended) = ended {
                    job.metadata.insert(META_REPLACES.into(), ended.id.to_string());
                }
                self.homes.took(host, &job);
                self.hosts[host].start.push(job);
                None
            }
            Err(reason) => Some(waiting(reason, None)),
        }
    }

    /// Takes room for one process: where its data is, if it has any.
    fn place<'w>(
        &mut self,
        wish: &'w Wish<'_>,
        only: Option<HostIndex>,
        spread: &mut Spread<'_>,
    ) -> Result<(HostIndex, &'w Job), String> {
        let job = wish.job.as_ref().map_err(|err| format!("it cannot be run: {err}"))?;
        let home = self.homes.of(job)?;
        let host = match (only, home) {
            (None, None) => self.placement.place(spread, job, wish.tags)?,
            (Some(only), Some(home)) if only != home => {
                return Err(format!(
                    "the data of its volume is on host {}, and is of no other: a type that runs on every host \
                     cannot keep data in a volume",
                    self.hosts[home].id
                ));
            }
            (Some(host), _) | (None, Some(host)) => {
                self.placement.place_on(host, spread, job, wish.tags)?
            }
        };
        Ok((host, job))
    }

    /// The id the last plan gave the `n`th new job of a kind if it waited, so that a person sees one job wait and not
    /// many; else a new one.
    fn fresh_id(&self, kind: &Kind, n: usize, only: Option<&str>) -> JobId {
        let waited = self.waited.get(&(kind, only)).and_then(|ids| ids.get(n));
        waited.copied().unwrap_or_else(|| self.snapshot.new_id(kind, only, n))
    }

    fn wake_at(&mut self, wait: Replacement) {
        let earliest = self.plan.wake_at.map_or(wait.not_before, |at| at.min(wait.not_before));
        self.plan.wake_at = Some(earliest);
    }

    fn finish(self) -> Plan {
        let mut plan = self.plan;
        for Orders { id, view, start, stop } in self.hosts {
            if start.is_empty() && stop.is_empty() {
                continue;
            }
            plan.based_on.insert(id.into(), view.version);
            if !start.is_empty() {
                plan.start.insert(id.into(), start);
            }
            if !stop.is_empty() {
                plan.stop.insert(id.into(), stop);
            }
        }
        plan
    }
}

impl Plan {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.start.is_empty() && self.stop.is_empty()
    }
}
