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
}

/// What spreads over the hosts: processes of one type of one app, whatever their release.
pub(super) struct Spread<'p> {
    /// Where those run that are not counted yet: of most spreads nothing is placed.
    present: Box<dyn Iterator<Item = HostIndex> + 'p>,
    /// How many run where.
    counts: BTreeMap<HostIndex, u32>,
    queue: Option<Queue>,
}

/// The hosts in the order in which the processes of a spread go to them, for as long as nothing else is placed. Room only
/// shrinks meanwhile, so a host that has none is looked at once.
struct Queue {
    limits: Limits,
    resurrect: bool,
    /// Of the hosts that run none: where in [`Placement::freest`] the next is to be looked for.
    fresh: Bound<Rank>,
    /// Those that run some, by how many.
    begun: BTreeMap<u32, BTreeSet<Rank>>,
    /// Why there is no room any more.
    refusal: Option<String>,
}

/// Whether a host has disk for a job: one that is full takes what the cluster cannot do without.
fn has_disk(host: &HostView, resurrect: bool) -> bool {
    resurrect || !host.full
}

impl<'p> Spread<'p> {
    /// A spread whose present processes are on these hosts.
    pub(super) fn new(present: impl Iterator<Item = HostIndex> + 'p) -> Self {
        Self { present: Box::new(present), counts: BTreeMap::new(), queue: None }
    }

    fn count(&mut self) {
        for host in &mut self.present {
            *self.counts.entry(host).or_default() += 1;
        }
    }
}

impl<'a> Placement<'a> {
    /// All that is free.
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let hosts = snapshot.hosts.iter().map(|(id, host)| (id.as_str(), host, host.room));
        let hosts: Vec<_> = hosts.collect();
        let lot = |(id, _, _): &(&str, _, _)| {
            let mut lot = DefaultHasher::new();
            (snapshot.seed, id).hash(&mut lot);
            lot.finish()
        };
        let lots = hosts.iter().map(lot).collect();
        let mut placement = Self { hosts, lots, freest: BTreeSet::new() };
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
    ) -> Result<HostIndex, String> {
        spread.count();
        let same = |queue: &Queue| queue.limits == job.limits && queue.resurrect == job.resurrect;
        let queue = spread.queue.take().filter(same);
        let mut queue = queue.unwrap_or_else(|| self.queue(spread, job));
        let placed = match &queue.refusal {
            Some(reason) => Err(reason.clone()),
            None => match self.next(&mut queue, spread) {
                Some(host) => Ok(host),
                None => Err(queue.refusal.insert(self.why_not(job, None)).clone()),
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
    ) -> Result<HostIndex, String> {
        let (_, view, room) = &self.hosts[host];
        if !view.connected || !has_disk(view, job.resurrect) || !room.fits(&job.limits) {
            return Err(self.why_not(job, Some(host)));
        }
        self.take(host, &job.limits);
        *spread.counts.entry(host).or_default() += 1;
        spread.queue = None;
        Ok(host)
    }

    fn rank(&self, host: HostIndex) -> Rank {
        (Reverse(self.hosts[host].2.memory / STEP), self.lots[host], host)
    }

    fn queue(&self, spread: &Spread<'_>, job: &Job) -> Queue {
        let mut begun: BTreeMap<u32, BTreeSet<Rank>> = BTreeMap::new();
        for (&host, &count) in &spread.counts {
            let rank = self.rank(host);
            if self.freest.contains(&rank) {
                begun.entry(count).or_default().insert(rank);
            }
        }
        let (limits, resurrect) = (job.limits.clone(), job.resurrect);
        Queue { limits, resurrect, fresh: Bound::Unbounded, begun, refusal: None }
    }

    fn next(&self, queue: &mut Queue, spread: &Spread<'_>) -> Option<HostIndex> {
        let Queue { limits, resurrect, fresh, begun, .. } = queue;
        let fits = |host: HostIndex| {
            let (_, view, room) = &self.hosts[host];
            has_disk(view, *resurrect) && room.fits(limits)
        };
        for &rank in self.freest.range((*fresh, Bound::Unbounded)) {
            *fresh = Bound::Excluded(rank);
            let (_, _, host) = rank;
            if !spread.counts.contains_key(&host) && fits(host) {
                return Some(host);
            }
        }
        while let Some(mut fewest) = begun.first_entry() {
            while let Some((_, _, host)) = fewest.get_mut().pop_first() {
                if fits(host) {
                    return Some(host);
                }
            }
            fewest.remove();
        }
        None
    }

    fn take(&mut self, host: HostIndex, limits: &Limits) {
        let open = self.freest.remove(&self.rank(host));
        self.hosts[host].2.take(limits);
        if open {
            self.freest.insert(self.rank(host));
        }
    }

    fn why_not(&self, job: &Job, only: Option<HostIndex>) -> String {
        let limits = &job.limits;
        let asked = match only {
            Some(host) => &self.hosts[host..=host],
            None => &self.hosts[..],
        };
        if asked.is_empty() {
            return "there is no host to run it on".into();
        }
        let lacks = asked.iter().take(NAMED).map(|(id, host, room)| {
            if !host.connected {
                format!("{id} does not answer")
            } else if host.draining && only.is_none() {
                format!("{id} is being drained")
            } else if !has_disk(host, job.resurrect) {
                format!("{id} has no disk free")
            } else if room.memory < limits.memory {
                let free = room.memory >> 20;
                format!("{id} has {free} MiB of memory free of the {} needed", limits.memory >> 20)
            } else if room.addresses == 0 {
                format!("{id} has no address free")
            } else {
                format!("{id} has no CPU free")
            }
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
