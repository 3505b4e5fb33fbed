//! Where a job goes.
//!
//! The hosts are kept in the order of their free memory, so that a placement looks at few of them, however many there are.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    ops::Bound,
};

use api::host::{Job, Limits};
use sampi::Room;

use super::snapshot::{HostView, Snapshot};

/// Hosts named when none has room; of the others it is said how many they are.
const NAMED: usize = 3;

/// What a host has to be marked with.
pub(super) type Tags = BTreeMap<String, String>;

/// Whether a host has all of these tags.
pub(super) fn has_tags(host: &HostView, tags: Option<&Tags>) -> bool {
    tags.is_none_or(|tags| tags.iter().all(|(name, value)| host.tags.get(name) == Some(value)))
}

/// A host of the snapshot, by its position.
pub(super) type HostIndex = usize;

/// Bytes of free memory in which hosts are told apart.
const STEP: u64 = 1 << 30;

/// A host's place in the order: the most memory free, by [`STEP`], then the first of this plan's lots.
type Rank = (Reverse<u64>, u64, HostIndex);

/// The hosts with what is free on them, as a plan takes it.
pub(super) struct Placement<'a> {
    hosts: Vec<(&'a str, &'a HostView, Room)>,
    /// A lot for each host, drawn by the plan's seed: of hosts that are equally good two schedulers seldom choose the same,
    /// and so seldom have a commit refused because of each other.
    lots: Vec<u64>,
    /// Those that anything may be placed on.
    freest: BTreeSet<Rank>,
    /// Those that get only what has room nowhere else: they keep jobs from running, or are slow to answer.
    last: BTreeSet<HostIndex>,
}

/// What spreads over the hosts: processes of one type of one app, whatever their release.
pub(super) struct Spread<'p> {
    /// Where those run that are not counted yet: of most spreads nothing is placed.
    present: Box<dyn Iterator<Item = HostIndex> + 'p>,
    /// How many run where.
    counts: BTreeMap<HostIndex, u32>,
    /// Where one could not be run lately: such a host gets only what has room nowhere else.
    failed_on: BTreeSet<HostIndex>,
    queue: Option<Queue>,
}

/// The hosts in the order in which the processes of a spread go to them, for as long as nothing else is placed. Room only
/// shrinks meanwhile, so a host that has none is looked at once.
struct Queue {
    limits: Limits,
    resurrect: bool,
    tags: Option<Tags>,
    /// Of the hosts that run none: where in [`Placement::freest`] the next is to be looked for.
    fresh: Bound<Rank>,
    /// Those that run some, by how many.
    begun: BTreeMap<u32, BTreeSet<Rank>>,
    /// Those that come after all others, with how many they run.
    last: BTreeSet<(u32, Rank)>,
    /// Why there is no room any more.
    refusal: Option<String>,
}

/// Whether a host has disk for a job: one that is full takes what the cluster cannot do without.
fn has_disk(host: &HostView, resurrect: bool) -> bool {
    resurrect || !host.full
}

impl<'p> Spread<'p> {
    /// A spread whose present processes are on these hosts, and of which those kept one from running.
    pub(super) fn new(
        present: impl Iterator<Item = HostIndex> + 'p,
        failed_on: BTreeSet<HostIndex>,
    ) -> Self {
        Self { present: Box::new(present), counts: BTreeMap::new(), failed_on, queue: None }
    }

    fn count(&mut self) {
        for host in &mut self.present {
            *self.counts.entry(host).or_default() += 1;
        }
    }
}

impl<'a> Placement<'a> {
    /// All that is free. The hosts that are in trouble get what has room nowhere else.
    pub(super) fn new(snapshot: &'a Snapshot, in_trouble: &BTreeSet<HostIndex>) -> Self {
        let hosts = snapshot.hosts.iter().map(|(id, host)| (id.as_str(), host, host.room));
        let hosts: Vec<_> = hosts.collect();
        let lot = |(id, _, _): &(&str, _, _)| {
            let mut lot = DefaultHasher::new();
            (snapshot.seed, id).hash(&mut lot);
            lot.finish()
        };
        let lots = hosts.iter().map(lot).collect();
        let slow = hosts.iter().enumerate().filter(|(_, (_, host, _))| host.slow);
        let last = slow.map(|(index, _)| index).chain(in_trouble.iter().copied()).collect();
        let mut placement = Self { hosts, lots, freest: BTreeSet::new(), last };
        let open = placement.hosts.iter().enumerate();
        let open = open.filter(|(_, (_, host, _))| host.connected && !host.draining);
        placement.freest = open.map(|(index, _)| placement.rank(index)).collect();
        placement
    }

    /// Takes room for one more process of a spread: of the hosts with room the one that runs the fewest of them, then the
    /// one with the most memory free. If there is none, the answer says why.
    pub(super) fn place(
        &mut self,
        spread: &mut Spread<'_>,
        job: &Job,
        tags: Option<&Tags>,
    ) -> Result<HostIndex, String> {
        spread.count();
        let same = |queue: &Queue| {
            queue.limits == job.limits
                && queue.resurrect == job.resurrect
                && queue.tags.as_ref() == tags
        };
        let queue = spread.queue.take().filter(same);
        let mut queue = queue.unwrap_or_else(|| self.queue(spread, job, tags));
        let placed = match &queue.refusal {
            Some(reason) => Err(reason.clone()),
            None => match self.next(&mut queue, spread) {
                Some(host) => Ok(host),
                None => Err(queue.refusal.insert(self.why_not(job, tags, None)).clone()),
            },
        };
        if let Ok(host) = placed {
            self.take(host, &job.limits);
            let count = spread.counts.entry(host).or_default();
            *count += 1;
            queue.begun.entry(*count).or_default().insert(self.rank(host));
        }
        spread.queue = Some(queue);
        placed
    }

    /// Takes room on this host. What belongs to every host belongs to one that is drained too, to its end.
    pub(super) fn place_on(
        &mut self,
        host: HostIndex,
        spread: &mut Spread<'_>,
        job: &Job,
        tags: Option<&Tags>,
    ) -> Result<HostIndex, String> {
        let (_, view, room) = &self.hosts[host];
        let takes = view.connected && has_tags(view, tags) && has_disk(view, job.resurrect);
        if !takes || !room.fits(&job.limits) {
            return Err(self.why_not(job, tags, Some(host)));
        }
        self.take(host, &job.limits);
        *spread.counts.entry(host).or_default() += 1;
        spread.queue = None;
        Ok(host)
    }

    fn rank(&self, host: HostIndex) -> Rank {
        (Reverse(self.hosts[host].2.memory / STEP), self.lots[host], host)
    }

    fn queue(&self, spread: &Spread<'_>, job: &Job, tags: Option<&Tags>) -> Queue {
        let mut begun: BTreeMap<u32, BTreeSet<Rank>> = BTreeMap::new();
        for (&host, &count) in &spread.counts {
            let rank = self.rank(host);
            if self.freest.contains(&rank) {
                begun.entry(count).or_default().insert(rank);
            }
        }
        Queue {
            limits: job.limits.clone(),
            resurrect: job.resurrect,
            tags: tags.cloned(),
            fresh: Bound::Unbounded,
            begun,
            last: BTreeSet::new(),
            refusal: None,
        }
    }

    fn next(&self, queue: &mut Queue, spread: &Spread<'_>) -> Option<HostIndex> {
        let Queue { limits, resurrect, tags, fresh, begun, last, .. } = queue;
        let fits = |host: HostIndex| {
            let (_, view, room) = &self.hosts[host];
            has_disk(view, *resurrect) && has_tags(view, tags.as_ref()) && room.fits(limits)
        };
        let comes_last = |host| self.last.contains(&host) || spread.failed_on.contains(&host);
        for &rank in self.freest.range((*fresh, Bound::Unbounded)) {
            *fresh = Bound::Excluded(rank);
            let (_, _, host) = rank;
            if spread.counts.contains_key(&host) || !fits(host) {
                continue;
            }
            if !comes_last(host) {
                return Some(host);
            }
            last.insert((0, rank));
        }
        while let Some(mut fewest) = begun.first_entry() {
            let count = *fewest.key();
            while let Some(rank) = fewest.get_mut().pop_first() {
                let (_, _, host) = rank;
                match fits(host) {
                    true if !comes_last(host) => return Some(host),
                    true => _ = last.insert((count, rank)),
                    false => {}
                }
            }
            fewest.remove();
        }
        let left = std::iter::from_fn(|| last.pop_first());
        left.map(|(_, (_, _, host))| host).find(|&host| fits(host))
    }

    fn take(&mut self, host: HostIndex, limits: &Limits) {
        let open = self.freest.remove(&self.rank(host));
        self.hosts[host].2.take(limits);
        if open {
            self.freest.insert(self.rank(host));
        }
    }

    /// Why a job finds no place. It names nothing that changes with every job that comes or goes: each change is told.
    fn why_not(&self, job: &Job, tags: Option<&Tags>, only: Option<HostIndex>) -> String {
        let asked: Vec<_> = match only {
            Some(host) => vec![&self.hosts[host]],
            None if self.hosts.is_empty() => return "there is no host to run it on".into(),
            None => self.hosts.iter().filter(|(_, host, _)| has_tags(host, tags)).collect(),
        };
        if asked.is_empty() {
            let tags = tags.into_iter().flatten().map(|(name, value)| format!("{name}={value}"));
            let tags = tags.collect::<Vec<_>>().join(" ");
            return format!(
                "no host is tagged {tags}: tag one with `flynn-host tags set <host> {tags}` (`flynn-host list` names \
                 them), or scale without the tags"
            );
        }
        let lacks = asked.iter().take(NAMED).map(|(id, host, room)| {
            lack(id, host, room, job, only.is_some())
                .unwrap_or_else(|| format!("{id} is not tagged so"))
        });
        let lacks = lacks.collect::<Vec<_>>().join(", ");
        let others = match asked.len().saturating_sub(NAMED) {
            0 => String::new(),
            1 => ", and one more host has none either".into(),
            others => format!(", and {others} more hosts have none either"),
        };
        format!("no host has room for it: {lacks}{others}; scale something down or add a host")
    }
}

/// What a host lacks for a job, if it is room. `only` it may take it, though it is drained.
fn lack(id: &str, host: &HostView, room: &Room, job: &Job, only: bool) -> Option<String> {
    let Limits { memory, cpu, .. } = job.limits;
    Some(if !host.connected {
        format!("{id} does not answer")
    } else if host.draining && !only {
        format!("{id} is being drained")
    } else if !has_disk(host, job.resurrect) {
        format!("{id} has no disk free")
    } else if room.memory < memory {
        format!("{id} has less than the {} MiB of memory free that it needs", memory >> 20)
    } else if room.addresses == 0 {
        format!("{id} has no address free")
    } else if room.cpu < cpu.into() {
        format!("{id} has no CPU free")
    } else {
        return None;
    })
}
