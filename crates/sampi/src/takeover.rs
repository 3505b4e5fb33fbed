//! Becoming the leader: every host is heard before the first commit.

use std::collections::BTreeSet;

use api::{discoverd::Term, id::JobId};

use crate::{Cluster, HostInfo};

/// The state of a leader that does not lead yet.
///
/// A host that promised to obey the new term carries out no order of an older one any more, so its listing holds whatever
/// an older leader got done there. A state that lacked one host's listing would place its jobs a second time and fill its
/// room twice.
#[derive(Debug)]
pub struct Takeover {
    cluster: Cluster,
    heard: BTreeSet<String>,
}

impl Takeover {
    /// Begins under a term, knowing nothing; see [`Cluster::new`].
    pub fn new(term: Term, version: u64) -> Self {
        Self { cluster: Cluster::new(term, version), heard: BTreeSet::new() }
    }

    /// The term.
    pub fn term(&self) -> Term {
        self.cluster.term()
    }

    /// Takes the listing of a host that has promised to obey this term. Answers the jobs that another host listed too.
    pub fn heard(&mut self, id: &str, info: HostInfo) -> Vec<JobId> {
        self.heard.insert(id.into());
        self.cluster.upsert_host(id, info)
    }

    /// The state to lead with, once each of the cluster's hosts was heard.
    pub fn finish<'a>(
        self,
        hosts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Cluster, Box<Self>> {
        let missing = self.missing(hosts).len();
        // A planted bug, which the simulator must find: one host's list is forgotten.
        let forgiven = usize::from(cfg!(feature = "plant-forget-list"));
        if missing > forgiven { Err(Box::new(self)) } else { Ok(self.cluster) }
    }

    /// The hosts that were not heard yet.
    pub fn missing<'a>(&self, hosts: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        hosts.into_iter().filter(|id| !self.heard.contains(*id)).collect()
    }
}
