//! The hosts of the cluster: who there is, where, with which subnet, and who of them runs etcd.
//!
//! In etcd, one key a host, and on disk, so that a host finds the others before it finds etcd.

use std::{
    collections::BTreeMap,
    error::Error,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use keyspace::{Change, Keyspace, Update};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    disk::{self, Durable},
    domain::{net::Cidr, overlay::Peers},
};

/// Below it: a key a host.
pub(crate) const HOSTS: &str = "/flynn/hosts/";
/// Who runs etcd.
pub(crate) const MEMBERS: &str = "/flynn/etcd-members";

/// What a host tells the others of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Where it is.
    pub(crate) addr: Ipv4Addr,
    /// Port of its tunnel.
    pub(crate) tunnel_port: u16,
    /// Its part of the job network, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subnet: Option<Cidr>,
    /// When it joined.
    pub(crate) joined_at: Timestamp,
}

impl Record {
    /// Where its tunnel is.
    pub(crate) fn tunnel(&self) -> SocketAddr {
        (self.addr, self.tunnel_port).into()
    }
}

/// A member of etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Its host.
    pub(crate) host: String,
    /// Where the other members find it.
    pub(crate) peer_url: String,
    /// Whether it has no vote yet.
    #[serde(default)]
    pub(crate) learner: bool,
    /// etcd's id of it. A host that is added again has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<MemberId>,
}

/// etcd's id of a member. As text: many readers of JSON round such a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct MemberId(pub(crate) u64);

impl From<MemberId> for String {
    fn from(MemberId(id): MemberId) -> Self {
        format!("{id:016x}")
    }
}

impl TryFrom<String> for MemberId {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&text, 16).map(Self)
    }
}

/// What is known of the cluster's hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grid {
    /// By id.
    #[serde(default)]
    pub(crate) hosts: BTreeMap<String, Record>,
    /// Who runs etcd.
    #[serde(default)]
    pub(crate) members: Vec<Member>,
}

impl Grid {
    /// The member of etcd on a host.
    pub(crate) fn member(&self, id: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.host == id)
    }

    /// The members of etcd with a vote.
    pub(crate) fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.learner)
    }

    /// Whether a host has a member of etcd with a vote.
    pub(crate) fn votes(&self, id: &str) -> bool {
        self.voters().any(|member| member.host == id)
    }

    /// Where every other host's subnet is.
    pub(crate) fn peers(&self, own: &str) -> Peers {
        let others = self.hosts.iter().filter(|(id, _)| *id != own);
        others.filter_map(|(_, record)| Some((record.subnet?, record.addr))).collect()
    }

    /// The host whose address on the job network's bridge that is.
    pub(crate) fn at_gateway(&self, gateway: Ipv4Addr) -> Option<(&str, &Record)> {
        let mut hosts = self.hosts.iter();
        let found = hosts.find(|(_, r)| r.subnet.is_some_and(|s| s.gateway() == gateway));
        found.map(|(id, record)| (id.as_str(), record))
    }

    /// Takes what a watch tells. Answers whether it is known as a whole: before a watch is synced it tells a part.
    fn learn(&mut self, update: Update, known: &mut bool) -> bool {
        match update {
            Update::Change(change) => self.take(&change),
            Update::Synced { .. } => *known = true,
            Update::Lost { .. } => *known = false,
        }
        *known
    }

    fn take(&mut self, change: &Change) {
        if change.key == MEMBERS {
            self.members =
                change.value.as_ref().and_then(|v| read(&change.key, v)).unwrap_or_default();
        } else if let Some(id) = change.key.strip_prefix(HOSTS) {
            match &change.value {
                None => _ = self.hosts.remove(id),
                Some(value) => {
                    if let Some(record) = read(&change.key, value) {
                        self.hosts.insert(id.into(), record);
                    }
                }
            }
        }
    }
}

fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Option<T> {
    serde_json::from_slice(value)
        .inspect_err(|err| warn!(key, error = %err, "a key in etcd cannot be read"))
        .ok()
}

/// The same, kept up to date.
#[derive(Debug)]
pub(crate) struct GridStore {
    path: PathBuf,
    seen: watch::Sender<Grid>,
    /// Held by who changes it: read, written to disk and told as one.
    changing: Mutex<()>,
}

impl GridStore {
    /// What was known last.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let grid = disk::read_json(&path)?.unwrap_or_default();
        Ok(Self { path, seen: watch::Sender::new(grid), changing: Mutex::default() })
    }

    /// What is known now.
    pub(crate) fn now(&self) -> watch::Ref<'_, Grid> {
        self.seen.borrow()
    }

    /// Tells when something changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Grid> {
        self.seen.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Grid)) {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut grid = self.now().clone();
        change(&mut grid);
        if *self.now() == grid {
            return;
        }
        // On disk first: whoever acts on it may need it after a restart.
        if let Err(err) = disk::write_json(&self.path, &grid, Durable::Synced) {
            warn!(error = &err as &dyn Error, "what is known of the hosts could not be kept");
        }
        self.seen.send_replace(grid);
    }

    /// etcd goes on with those members, whatever it said itself: this host asks them from now on.
    pub(crate) fn follow(&self, members: Vec<Member>) {
        self.change(|grid| grid.members = members);
    }

    /// The same for one alone, unless other members were learned of since those. Answers whether it is followed.
    pub(crate) fn follow_from(&self, before: &[Member], member: &Member) -> bool {
        let mut followed = false;
        self.change(|grid| {
            followed = grid.members == before;
            if followed {
                grid.members = vec![member.clone()];
            }
        });
        followed
    }

    /// Keeps it up to date out of etcd.
    pub(crate) async fn keep(&self, etcd: &Keyspace, stop: CancellationToken) {
        let (mut hosts, mut members) = (etcd.watch(HOSTS), etcd.watch(MEMBERS));
        let (mut hosts_known, mut members_known) = (false, false);
        let mut grid = Grid::default();
        loop {
            // Before the first host has written down what it was founded with there is nothing that could be followed.
            tokio::select! {
                () = stop.cancelled() => return,
                update = hosts.next() => {
                    if grid.learn(update, &mut hosts_known) && !grid.hosts.is_empty() {
                        self.change(|seen| seen.hosts.clone_from(&grid.hosts));
                    }
                }
                // By themselves: after a recovery one member is followed, whatever etcd said before it lost its quorum.
                update = members.next() => {
                    if grid.learn(update, &mut members_known) && !grid.members.is_empty() {
                        self.change(|seen| seen.members.clone_from(&grid.members));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(subnet: &str, addr: [u8; 4]) -> Record {
        Record {
            addr: addr.into(),
            tunnel_port: 1114,
            subnet: Some(subnet.parse().unwrap()),
            joined_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_comes_from_etcd_is_taken_and_what_cannot_be_read_left() {
        let mut grid = Grid::default();
        let mut take = |key: &str, value: Option<&str>| {
            grid.take(&Change {
                key: key.into(),
                value: value.map(|value| value.to_owned().into()),
                create_revision: 1,
                mod_revision: 1,
                lease: None,
            });
            grid.clone()
        };
        let a = serde_json::to_string(&record("100.64.2.0/23", [10, 0, 0, 1])).unwrap();
        take("/flynn/hosts/a", Some(&a));
        take("/flynn/hosts/b", Some("nonsense"));
        let grid = take(MEMBERS, Some(r#"[{"host":"a","peer_url":"https://10.0.0.1:2380"}]"#));
        assert_eq!(grid.hosts.keys().collect::<Vec<_>>(), ["a"]);
        assert!(grid.member("a").is_some() && grid.member("b").is_none());
        assert_eq!(grid.at_gateway([100, 64, 2, 1].into()).unwrap().0, "a");
        assert!(grid.peers("a").is_empty());
        assert_eq!(grid.peers("b").len(), 1);
    }

    #[test]
    fn who_is_told_to_follow_after_it_learned_of_others_stays_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = GridStore::open(dir.path().join("grid.json")).unwrap();
        let member = |host: &str| Member {
            host: host.into(),
            peer_url: format!("https://{host}:2380"),
            learner: false,
            id: None,
        };
        let before = [member("a"), member("b")];
        store.change(|grid| grid.members = before.to_vec());
        assert!(store.follow_from(&before, &member("a")));
        assert_eq!(store.now().members, [member("a")]);
        // Its own member has been added to the one that went on.
        store.change(|grid| grid.members = before.to_vec());
        assert!(!store.follow_from(&[member("a")], &member("a")));
        assert_eq!(store.now().members, before);
    }

    #[tokio::test]
    async fn it_is_kept_on_disk_and_follows_etcd() {
        let server = testkit::Etcd::start().await;
        let etcd = Keyspace::connect(&[server.url()]).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = GridStore::open(dir.path().join("grid.json")).unwrap();
        let stop = CancellationToken::new();
        let mut seen = store.subscribe();
        let a = serde_json::to_vec(&record("100.64.2.0/23", [10, 0, 0, 1])).unwrap();
        let b = serde_json::to_vec(&record("100.64.4.0/23", [10, 0, 0, 2])).unwrap();
        let members = r#"[{"host":"a","peer_url":"https://10.0.0.1:2380"}]"#;
        let puts = async {
            let put = keyspace::Transaction::new()
                .put(format!("{HOSTS}a"), a)
                .put(format!("{HOSTS}b"), b)
                .put(MEMBERS, members);
            etcd.commit(put).await.unwrap();
            seen.wait_for(|grid| grid.hosts.contains_key("b")).await.unwrap();
            etcd.commit(keyspace::Transaction::new().delete(format!("{HOSTS}b"))).await.unwrap();
            seen.wait_for(|grid| grid.hosts.keys().eq(["a"])).await.unwrap();
            stop.cancel();
        };
        tokio::join!(store.keep(&etcd, stop.clone()), puts);
        assert_eq!(
            GridStore::open(dir.path().join("grid.json")).unwrap().now().clone(),
            *store.now()
        );
    }
}
