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
    id::{AppId, JobId, ReleaseId},
};
use jiff::{SignedDuration, Timestamp};
use rustc_hash::FxHashMap;
use serde::Serialize;
use uuid::Uuid;

use super::{
    backoff::{self, Replacement},
    job::{Ending, JobView, Kind, KindId, META_REPLACES, Phase},
    placement::{HostIndex, Placement, Spread},
    snapshot::{HostView, Snapshot},
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

/// A kind by its parts, those together that spread together.
type Key<'a> = (AppId, &'a str, ReleaseId);

/// A job that counts.
#[derive(Debug, Clone, Copy)]
struct Present<'a> {
    host: HostIndex,
    id: JobId,
    job: &'a JobView,
}

/// A job that ended unasked and was not replaced yet.
#[derive(Debug, Clone, Copy)]
struct Ended<'a> {
    host: HostIndex,
    id: JobId,
    job: &'a JobView,
    ending: &'a Ending,
}

/// The jobs of one kind.
#[derive(Debug, Clone, Default)]
struct Cast<'a> {
    present: Vec<Present<'a>>,
    /// Newest first.
    ended: Vec<Ended<'a>>,
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
    let casts = census.casts();
    let mut planner = Planner::new(snapshot);
    planner.plan.foreign = census.foreign.into_iter().collect();
    for same_spread in casts.chunk_by(|(a, _), (b, _)| (a.0, a.1) == (b.0, b.1)) {
        let present = same_spread.iter().flat_map(|(_, cast)| &cast.present);
        let mut spread = Spread::new(present.map(|present| present.host));
        for (key, cast) in same_spread {
            planner.settle(*key, cast, &mut spread);
        }
    }
    planner.finish()
}

/// How many jobs of a kind there are, and how many there should be.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    wanted: u32,
    omni: bool,
    present: u32,
    /// One of them is to leave its host.
    leaves: bool,
}

impl Tally {
    /// Whether nothing is to be done about the kind.
    fn is_settled(self) -> bool {
        self.present == self.wanted && !self.leaves && (!self.omni || self.wanted == 0)
    }
}

/// All kinds that are wanted or that there are jobs of, counted.
#[derive(Debug, Default)]
struct Census<'a> {
    /// Where a kind is in the lists.
    numbers: FxHashMap<KindId, usize>,
    kinds: Vec<Key<'a>>,
    tallies: Vec<Tally>,
    /// Jobs that count, with their kinds' numbers.
    present: Vec<(usize, Present<'a>)>,
    /// Jobs that ended unasked, with their kinds' numbers.
    ended: Vec<(usize, Ended<'a>)>,
    replaced: BTreeSet<JobId>,
    /// Jobs of kinds that are not wanted, in the place of kinds that are: those kinds' numbers.
    in_place: Vec<(usize, Present<'a>)>,
    /// Jobs of apps that were never listed.
    foreign: Vec<JobId>,
}

impl<'a> Census<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let mut census = Self { replaced: snapshot.replaced.clone(), ..Self::default() };
        for formation in snapshot.formations.values().flat_map(BTreeMap::values) {
            let ExpandedFormation { app, release, processes, .. } = &**formation;
            for (name, &wanted) in processes {
                let id = KindId::of(app.id, release.id, name);
                let number = census.number(id, (app.id, name, release.id));
                let omni = release.processes.get(name).is_some_and(|process| process.omni);
                census.tallies[number] = Tally { wanted, omni, ..Tally::default() };
            }
        }
        for (host, view) in snapshot.hosts.values().enumerate() {
            for (&id, job) in view.jobs.iter() {
                census.count(snapshot, (host, view), id, job);
            }
        }
        census.fill_places();
        census
    }

    /// The number of the kind in whose place a job is, while its own kind is not wanted: its host is replacing one by it,
    /// or has, and who ordered that will say so any moment.
    fn in_place_of(&self, kind: &Kind, job: &JobView) -> Option<usize> {
        let is_wanted = |number: &&usize| self.tallies[**number].wanted > 0;
        let own = self.numbers.get(&kind.id()).filter(is_wanted);
        job.in_place_of
            .filter(|_| own.is_none())
            .and_then(|other| self.numbers.get(&other).filter(is_wanted).copied())
    }

    /// Lets jobs count for the kinds in whose places they are, as far as those lack any: beside what they are to replace
    /// they count for nothing, and nobody stops them.
    fn fill_places(&mut self) {
        for (number, present) in std::mem::take(&mut self.in_place) {
            let tally = &mut self.tallies[number];
            if tally.present < tally.wanted {
                tally.present += 1;
                self.present.push((number, present));
            }
        }
    }

    fn number(&mut self, id: KindId, key: Key<'a>) -> usize {
        *self.numbers.entry(id).or_insert_with(|| {
            self.kinds.push(key);
            self.tallies.push(Tally::default());
            self.kinds.len() - 1
        })
    }

    fn count(
        &mut self,
        snapshot: &Snapshot,
        (host, view): (HostIndex, &HostView),
        id: JobId,
        job: &'a JobView,
    ) {
        self.replaced.extend(job.replaces);
        let Some(kind) = job.kind() else { return };
        if let Some(number) = self.in_place_of(kind, job) {
            let lives = matches!(job.phase, Phase::Ordered | Phase::Starting | Phase::Up);
            self.in_place.extend(lives.then_some((number, Present { host, id, job })));
            return;
        }
        let number = match self.numbers.get(&kind.id()) {
            Some(&number) => number,
            None if snapshot.formations.contains_key(&kind.app) => {
                self.number(kind.id(), (kind.app, &kind.name, kind.release))
            }
            None => {
                self.foreign.extend(job.ending().is_none().then_some(id));
                return;
            }
        };
        if counts(snapshot, id, job) {
            let tally = &mut self.tallies[number];
            tally.present += 1;
            tally.leaves |= leaves(view, job);
            self.present.push((number, Present { host, id, job }));
        } else if let Some(ending) = job.ending().filter(|ending| !ending.asked) {
            self.ended.push((number, Ended { host, id, job, ending }));
        }
    }

    /// The kinds that something may have to be done about, and those that they spread with, with their jobs. Most kinds are
    /// as they should be, and their jobs are not sorted by kind.
    fn casts(&self) -> Vec<(Key<'a>, Cast<'a>)> {
        let all = || self.kinds.iter().zip(&self.tallies);
        let unsettled = all().filter(|(_, tally)| !tally.is_settled());
        let unsettled: BTreeSet<_> = unsettled.map(|((app, name, _), _)| (app, name)).collect();
        let cast = |(app, name, _): &Key<'a>| unsettled.contains(&(app, name)).then(Cast::default);
        let mut casts: Vec<Option<Cast<'a>>> = self.kinds.iter().map(cast).collect();
        for &(number, present) in &self.present {
            if let Some(cast) = &mut casts[number] {
                cast.present.push(present);
            }
        }
        for &(number, ended) in &self.ended {
            if let Some(cast) = &mut casts[number]
                && !self.replaced.contains(&ended.id)
            {
                cast.ended.push(ended);
            }
        }
        let casts = self.kinds.iter().zip(casts);
        let mut casts: Vec<_> = casts.filter_map(|(&key, cast)| Some((key, cast?))).collect();
        casts.sort_unstable_by_key(|&(key, _)| key);
        for (_, cast) in &mut casts {
            cast.ended.sort_unstable_by_key(|ended| (Reverse(ended.ending.at), ended.id));
        }
        casts
    }
}

/// Whether a job is to leave its host, which is drained.
fn leaves(host: &HostView, job: &JobView) -> bool {
    host.draining && !job.bound
}

struct Planner<'a> {
    snapshot: &'a Snapshot,
    /// The hosts with what is started and stopped on each.
    hosts: Vec<Orders<'a>>,
    placement: Placement<'a>,
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
    fn new(snapshot: &'a Snapshot) -> Self {
        let orders = |(id, view)| Orders { id, view, start: Vec::new(), stop: Vec::new() };
        let hosts = snapshot.hosts.iter().map(|(id, view)| orders((id.as_str(), view)));
        let mut waited: HashMap<_, Vec<JobId>> = HashMap::new();
        for one in snapshot.waited.iter().filter(|waiting| waiting.restarts == 0) {
            waited.entry((&one.kind, one.only.as_deref())).or_default().push(one.id);
        }
        Self {
            snapshot,
            hosts: hosts.collect(),
            placement: Placement::new(snapshot),
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
        for (host, cast) in by_host.iter().enumerate() {
            self.settle_count(&kind, formation, 1, cast, spread, Some(host));
        }
    }

    fn settle_count(
        &mut self,
        kind: &Kind,
        formation: Option<&ExpandedFormation>,
        wanted: usize,
        Cast { present, ended }: &Cast<'a>,
        spread: &mut Spread<'_>,
        only: Option<HostIndex>,
    ) {
        let leaves = |present: &Present<'_>| {
            only.is_none() && leaves(self.hosts[present.host].view, present.job)
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
        let missing = wanted - staying;
        let replacements = ended.iter().copied().map(Some);
        for (n, ended_one) in replacements.chain(std::iter::repeat(None)).take(missing).enumerate()
        {
            let n = n.saturating_sub(ended.len());
            self.start(kind, &job, n, Missing { only, ended: ended_one }, spread);
        }
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

    /// Starts one process, or says why not yet. `job` is the one to start, but for its id.
    fn start(
        &mut self,
        kind: &Kind,
        job: &Result<Job, ExpandError>,
        n: usize,
        missing: Missing<'a>,
        spread: &mut Spread<'_>,
    ) {
        let Missing { only, ended } = missing;
        let wait = ended.map(|ended| backoff::replacement(ended.job, ended.ending));
        let only_id = only.map(|host| self.hosts[host].id);
        let id = match ended {
            Some(ended) => self.snapshot.replacement_id(ended.id),
            None => self.fresh_id(kind, n, only_id),
        };
        let restarts = wait.map_or(0, |wait| wait.restarts);
        let waiting = |reason, run_at| {
            let only = only_id.map(str::to_owned);
            Waiting { id, kind: kind.clone(), only, reason, run_at, restarts }
        };
        if let (Some(wait), Some(ended)) = (wait, ended)
            && wait.not_before > self.snapshot.now
        {
            self.wake_at(wait);
            let reason = backoff::reason(ended.ending, wait);
            self.plan.waiting.push(waiting(reason, Some(wait.not_before)));
            return;
        }
        let cannot = |err| format!("it cannot be run: {err}");
        let placed = job.as_ref().map_err(cannot).and_then(|job| {
            let host = match only {
                Some(host) => self.placement.place_on(host, spread, job)?,
                None => self.placement.place(spread, job)?,
            };
            Ok((host, job))
        });
        match placed {
            Ok((host, job)) => {
                let mut job = Job { id, restarts, ..job.clone() };
                if let Some(ended) = ended {
                    job.metadata.insert(META_REPLACES.into(), ended.id.to_string());
                }
                self.hosts[host].start.push(job);
            }
            Err(reason) => self.plan.waiting.push(waiting(reason, None)),
        }
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
