//! What there is of each kind, and what there should be.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use api::{
    controller::ExpandedFormation,
    id::{AppId, JobId, ReleaseId},
};
use jiff::{SignedDuration, Timestamp};
use rustc_hash::FxHashMap;

use super::{
    job::{Ending, JobView, Kind, KindId, Phase},
    placement::{HostIndex, Tags, has_tags},
    snapshot::{HostView, Place, Snapshot},
};

/// A host restarts its `resurrect` jobs itself. One that it still lists is given up as lost after so long.
const RESURRECTION_LIMIT: SignedDuration = SignedDuration::from_secs(120);

/// A `resurrect` job that its host no longer lists is given up after so long.
const FORGOTTEN_LIMIT: SignedDuration = SignedDuration::from_secs(10);

/// That a host refused a job or could start no process is remembered for so long.
const TROUBLE_KEPT: SignedDuration = SignedDuration::from_mins(5);

/// How long a job that took another's place is kept although no formation wants it. The controller changes the formations of
/// both releases at once but sends them one after the other, so the one that no longer wants the predecessor may arrive
/// first; and if the job is the database, the controller cannot send the second without it.
const IN_PLACE_GRACE: SignedDuration = SignedDuration::from_secs(60);

/// A host that kept jobs of so many apps from running is in trouble itself: with one it may be the app.
const APPS_IN_TROUBLE: usize = 2;

/// A kind by its parts, those together that spread together.
pub(super) type Key<'a> = (AppId, &'a str, ReleaseId);

/// A job that counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present<'a> {
    pub(super) host: HostIndex,
    pub(super) id: JobId,
    pub(super) job: &'a JobView,
}

/// A job that ended unasked and was not replaced yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended<'a> {
    pub(super) host: HostIndex,
    pub(super) id: JobId,
    pub(super) job: &'a JobView,
    pub(super) ending: &'a Ending,
}

/// The jobs of one kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Cast<'a> {
    pub(super) present: Vec<Present<'a>>,
    /// Newest first.
    pub(super) ended: Vec<Ended<'a>>,
    /// Hosts that lately kept one from running.
    pub(super) failed_on: Vec<HostIndex>,
}

/// How many jobs of a kind there are, and how many there should be.
#[derive(Debug, Clone, Copy, Default)]
struct Tally<'a> {
    wanted: u32,
    omni: bool,
    /// Where it may run.
    tags: Option<&'a Tags>,
    present: u32,
    /// One of them is to leave its host.
    leaves: bool,
}

impl Tally<'_> {
    /// Whether nothing is to be done about the kind.
    fn is_settled(self) -> bool {
        self.present == self.wanted && !self.leaves && (!self.omni || self.wanted == 0)
    }
}

/// All kinds that are wanted or that there are jobs of, counted.
#[derive(Debug, Default)]
pub(super) struct Census<'a> {
    /// Where a kind is in the lists.
    numbers: FxHashMap<KindId, usize>,
    kinds: Vec<Key<'a>>,
    tallies: Vec<Tally<'a>>,
    /// Jobs that count, with their kinds' numbers.
    present: Vec<(usize, Present<'a>)>,
    /// Jobs that ended unasked, with their kinds' numbers.
    ended: Vec<(usize, Ended<'a>)>,
    replaced: BTreeSet<JobId>,
    /// Jobs of kinds that are not wanted, in the place of kinds that are: those kinds' numbers.
    in_place: Vec<(usize, Present<'a>)>,
    /// Jobs that were let take another's place, and what has become of it.
    pub(super) places: BTreeMap<JobId, Place>,
    /// When the first of those that no formation has confirmed is not waited for any longer.
    pub(super) unconfirmed_until: Option<Timestamp>,
    /// Jobs of apps that were never listed.
    pub(super) foreign: Vec<JobId>,
    /// Those of them that are to be stopped.
    pub(super) left_over: Vec<(HostIndex, JobId)>,
    /// Who has a volume.
    pub(super) holders: HashMap<&'a str, Holder>,
    /// Where the data of a volume is, by the word of the host that runs or ran a job with it.
    pub(super) homes: HashMap<&'a str, HostIndex>,
    /// Kinds that hosts lately kept from running.
    failed: Vec<(usize, HostIndex)>,
    /// By host: apps whose jobs it lately kept from running.
    in_trouble: BTreeMap<HostIndex, BTreeSet<AppId>>,
}

/// A job that has a volume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder {
    pub(super) host: HostIndex,
    pub(super) id: JobId,
    /// Whether others may have it too.
    pub(super) shared: bool,
}

impl<'a> Census<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let mut census = Self { replaced: snapshot.replaced.clone(), ..Self::default() };
        for formation in snapshot.formations.values().flat_map(BTreeMap::values) {
            let ExpandedFormation { app, release, processes, .. } = &**formation;
            for (name, &wanted) in processes {
                let id = KindId::of(app.id, release.id, name);
                let number = census.number(id, (app.id, name, release.id));
                let omni = release.processes.get(name).is_some_and(|process| process.omni);
                let tags = formation.tags.get(name);
                census.tallies[number] = Tally { wanted, omni, tags, ..Tally::default() };
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
        if self.numbers.get(&kind.id()).filter(is_wanted).is_some() {
            return None;
        }
        self.numbers.get(&job.in_place_of?).filter(is_wanted).copied()
    }

    fn is_wanted(&self, kind: KindId) -> bool {
        self.numbers.get(&kind).is_some_and(|&number| self.tallies[number].wanted > 0)
    }

    /// What has become of the place that a job was let take, if it was. Once a formation has wanted the job it is one like
    /// any other. A scheduler that did not see it take the place counts from when the job came to be.
    fn place(&self, snapshot: &Snapshot, id: JobId, kind: &Kind, job: &JobView) -> Option<Place> {
        let replaced = job.in_place_of.filter(|_| job.lives())?;
        if !snapshot.formations.contains_key(&kind.app) {
            return None;
        }
        Some(match snapshot.places.get(&id) {
            Some(Place::Confirmed) => Place::Confirmed,
            _ if self.is_wanted(kind.id()) => Place::Confirmed,
            _ if self.is_wanted(replaced) => Place::Taking,
            Some(&Place::Unconfirmed(since)) => Place::Unconfirmed(since),
            Some(Place::Taking) => Place::Unconfirmed(snapshot.now),
            None => Place::Unconfirmed(job.created_at.unwrap_or(snapshot.now)),
        })
    }

    /// Whether the formation that says that a job has a place may still be on its way.
    fn awaits_formation(&mut self, snapshot: &Snapshot, place: Option<Place>) -> bool {
        let Some(Place::Unconfirmed(since)) = place else { return false };
        let until = since + IN_PLACE_GRACE;
        if until <= snapshot.now {
            return false;
        }
        self.unconfirmed_until = Some(self.unconfirmed_until.map_or(until, |at| at.min(until)));
        true
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
        if job.is_bound() {
            self.volumes(snapshot, host, id, job);
        }
        let Some(kind) = job.kind() else { return };
        let place = self.place(snapshot, id, kind, job);
        self.places.extend(place.map(|place| (id, place)));
        let replaced = self.in_place_of(kind, job).filter(|_| place != Some(Place::Confirmed));
        if let Some(number) = replaced {
            self.in_place.extend(job.lives().then_some((number, Present { host, id, job })));
            return;
        }
        if self.awaits_formation(snapshot, place) {
            return;
        }
        let number = match self.numbers.get(&kind.id()) {
            Some(&number) => number,
            None if snapshot.formations.contains_key(&kind.app) => {
                self.number(kind.id(), (kind.app, &kind.name, kind.release))
            }
            None => {
                let alive = job.ending().is_none();
                self.foreign.extend(alive.then_some(id));
                let stops = job.phase == Phase::Stopping || snapshot.stops.contains(&id);
                // What its host restarts may be what the controller itself needs.
                if alive && !stops && !job.resurrect && snapshot.left_over.contains(&id) {
                    self.left_over.push((host, id));
                }
                return;
            }
        };
        let lately = |at| snapshot.now.duration_since(at) <= TROUBLE_KEPT;
        if job.failed_by_host().is_some_and(lately) {
            self.failed.push((number, host));
            self.in_trouble.entry(host).or_default().insert(kind.app);
        }
        if counts(snapshot, id, job) {
            let tally = &mut self.tallies[number];
            tally.present += 1;
            tally.leaves |= leaves(view, job, tally.tags);
            self.present.push((number, Present { host, id, job }));
        } else if let Some(ending) = job.ending().filter(|ending| !ending.asked) {
            self.ended.push((number, Ended { host, id, job, ending }));
        }
    }

    /// Notes who has the volumes of a job, and where they are.
    fn volumes(&mut self, snapshot: &Snapshot, host: HostIndex, id: JobId, job: &'a JobView) {
        let holds = job.ending().is_none() || counts(snapshot, id, job);
        for volume in &job.volumes {
            // What its host took is there, also after its end.
            if job.created_at.is_some() {
                self.homes.insert(&volume.name, host);
            }
            if !holds {
                continue;
            }
            let holder = Holder { host, id, shared: volume.shared };
            let known = self.holders.entry(&volume.name).or_insert(holder);
            if known.shared {
                *known = holder;
            }
        }
    }

    /// The hosts that lately kept jobs of several apps from running.
    pub(super) fn in_trouble(&self) -> BTreeSet<HostIndex> {
        let several = self.in_trouble.iter().filter(|(_, apps)| apps.len() >= APPS_IN_TROUBLE);
        several.map(|(&host, _)| host).collect()
    }

    /// The kinds that something may have to be done about, and those that they spread with, with their jobs. Most kinds are
    /// as they should be, and their jobs are not sorted by kind.
    pub(super) fn casts(&self) -> Vec<(Key<'a>, Cast<'a>)> {
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
        for &(number, host) in &self.failed {
            if let Some(cast) = &mut casts[number] {
                cast.failed_on.push(host);
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

/// Whether a job is to leave its host, which is drained or has not the tags any more. What keeps data stays.
pub(super) fn leaves(host: &HostView, job: &JobView, tags: Option<&Tags>) -> bool {
    (host.draining || !has_tags(host, tags)) && !job.is_bound()
}

/// Whether a job counts towards what is wanted. One that was told to stop does not, even if it had ended and its host would
/// have restarted it: of that its host tells nothing.
fn counts(snapshot: &Snapshot, id: JobId, job: &JobView) -> bool {
    if snapshot.stops.contains(&id) {
        return false;
    }
    match &job.phase {
        Phase::Ordered | Phase::Starting | Phase::Up => true,
        Phase::Stopping => false,
        Phase::Ended(ending) => {
            let limit = if ending.forgotten { FORGOTTEN_LIMIT } else { RESURRECTION_LIMIT };
            job.resurrect && !ending.asked && snapshot.now.duration_since(ending.at) <= limit
        }
    }
}
