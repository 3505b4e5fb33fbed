//! Where a job with volumes may run: where its data is, and only while no other job writes to it.

use std::collections::{BTreeMap, HashMap};

use api::{host::Job, id::JobId};

use super::{
    census::{Census, Holder},
    placement::HostIndex,
    snapshot::Snapshot,
};

/// The volumes of the cluster, as a plan gives them out.
pub(super) struct Homes<'a> {
    hosts: Vec<&'a str>,
    /// The hosts that have the data, by the cluster's word.
    claims: &'a BTreeMap<String, String>,
    /// Where the data is, by the word of the host itself, which may be newer.
    told: HashMap<&'a str, HostIndex>,
    holders: HashMap<&'a str, Holder>,
    /// Volumes that this plan gave to a job.
    given: HashMap<String, Holder>,
    /// A job of the type at hand of which it is not known yet which volumes it has.
    pub(super) untold: Option<(HostIndex, JobId)>,
}

impl<'a> Homes<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, census: &Census<'a>) -> Self {
        Self {
            hosts: snapshot.hosts.keys().map(String::as_str).collect(),
            claims: &snapshot.volumes,
            told: census.homes.clone(),
            holders: census.holders.clone(),
            given: HashMap::new(),
            untold: None,
        }
    }

    /// The host that a job has to run on because its data is there; none if it has no data yet. If it cannot run now, the
    /// answer says why.
    pub(super) fn of(&self, job: &Job) -> Result<Option<HostIndex>, String> {
        let mut home: Option<HostIndex> = None;
        for volume in &job.config.volumes {
            let name = volume.name.as_str();
            let holder = self.given.get(name).or_else(|| self.holders.get(name));
            let path = &volume.path;
            let held = holder.filter(|holder| !(holder.shared && volume.shared));
            let held = held.map(|holder| (holder.host, holder.id));
            let untold = self.untold.filter(|_| !volume.shared);
            if let Some((host, id)) = held.or(untold) {
                return Err(format!(
                    "its volume {path} is in use by job {id} on host {}, which has to end first: one process writes to a \
                     volume at a time",
                    self.hosts[host]
                ));
            }
            let Some(here) = self.home(name, path)? else { continue };
            if *home.get_or_insert(here) != here {
                return Err(format!(
                    "the data of its volumes is on several hosts; {path} is on {}",
                    self.hosts[here]
                ));
            }
        }
        Ok(home)
    }

    fn home(&self, name: &str, path: &str) -> Result<Option<HostIndex>, String> {
        if let Some(given) = self.given.get(name) {
            return Ok(Some(given.host));
        }
        let Some(claimed) = self.claims.get(name) else { return Ok(self.told.get(name).copied()) };
        let host = self.hosts.binary_search(&claimed.as_str());
        host.map(Some).map_err(|_| {
            format!(
                "the data of its volume {path} is on host {claimed}, which is away and has to come back; if that host is \
                 lost for good, take it out with `flynn-host remove {claimed}`, and this starts without its data"
            )
        })
    }

    /// A job is started on a host, and has its volumes from now on.
    pub(super) fn took(&mut self, host: HostIndex, job: &Job) {
        for volume in &job.config.volumes {
            let holder = Holder { host, id: job.id, shared: volume.shared };
            self.given.insert(volume.name.clone(), holder);
        }
    }
}
