//! Where a job goes.

use std::collections::BTreeMap;

use api::{
    host::Job,
    id::{AppId, JobId},
};
use sampi::Room;

use super::{
    job::JobView,
    snapshot::{HostView, Snapshot},
};

/// Whether a host may be given a job. What belongs to every host belongs to one that is drained too, to its end; one
/// whose disk is full takes what the cluster cannot do without.
fn may_take(host: &HostView, job: &Job, belongs: bool) -> bool {
    host.connected && (belongs || !host.draining) && (job.resurrect || !host.full)
}

/// What spreads over the hosts: processes of one type of one app, whatever their release.
type Spread = (AppId, String);

/// The hosts with what is free on them, as a plan takes it.
pub(super) struct Placement<'a> {
    snapshot: &'a Snapshot,
    rooms: BTreeMap<&'a str, Room>,
    counts: BTreeMap<Spread, BTreeMap<&'a str, u32>>,
}

impl<'a> Placement<'a> {
    /// All that is free; `present` says which jobs count.
    pub(super) fn new(snapshot: &'a Snapshot, present: impl Fn(JobId, &JobView) -> bool) -> Self {
        let rooms = snapshot.hosts.iter().map(|(id, host)| (id.as_str(), host.room)).collect();
        let mut counts: BTreeMap<Spread, BTreeMap<&str, u32>> = BTreeMap::new();
        for (id, host) in &snapshot.hosts {
            for (&job, view) in host.jobs.iter() {
                if let Some(kind) = view.kind().filter(|_| present(job, view)) {
                    let spread = counts.entry((kind.app, kind.name.clone())).or_default();
                    *spread.entry(id).or_default() += 1;
                }
            }
        }
        Self { snapshot, rooms, counts }
    }

    /// Takes room for one more process of a type: of the hosts with room the one that runs the fewest of them, then the
    /// one with the most memory free. `only` on that host. If there is none, the answer says why.
    pub(super) fn place(
        &mut self,
        app: AppId,
        kind: &str,
        job: &Job,
        only: Option<&str>,
    ) -> Result<&'a str, String> {
        let limits = &job.limits;
        let counts = self.counts.entry((app, kind.into())).or_default();
        let best = self
            .snapshot
            .hosts
            .iter()
            .filter(|(id, host)| {
                may_take(host, job, only.is_some()) && only.is_none_or(|only| only == id.as_str())
            })
            .map(|(id, _)| (id.as_str(), self.rooms[id.as_str()]))
            .filter(|(_, room)| room.fits(limits))
            .min_by_key(|&(id, room)| {
                (counts.get(id).copied().unwrap_or(0), std::cmp::Reverse(room.memory), id)
            });
        match best {
            Some((id, _)) => {
                *counts.entry(id).or_default() += 1;
                self.rooms.get_mut(id).expect("every host has room or none").take(limits);
                Ok(id)
            }
            None => Err(self.why_not(job, only)),
        }
    }

    fn why_not(&self, job: &Job, only: Option<&str>) -> String {
        let limits = &job.limits;
        let hosts = self.snapshot.hosts.iter();
        let lacks: Vec<String> = hosts
            .filter(|(id, _)| only.is_none_or(|only| only == id.as_str()))
            .map(|(id, host)| {
                let room = self.rooms[id.as_str()];
                if !host.connected {
                    format!("{id} does not answer")
                } else if host.draining && only.is_none() {
                    format!("{id} is being drained")
                } else if host.full && !job.resurrect {
                    format!("{id} has no disk free")
                } else if room.memory < limits.memory {
                    let free = room.memory >> 20;
                    format!(
                        "{id} has {free} MiB of memory free of the {} needed",
                        limits.memory >> 20
                    )
                } else if room.addresses == 0 {
                    format!("{id} has no address free")
                } else {
                    format!("{id} has no CPU free")
                }
            })
            .collect();
        if lacks.is_empty() {
            return "there is no host to run it on".into();
        }
        format!("no host has room for it: {}; scale something down or add a host", lacks.join(", "))
    }
}
