//! This host's part in etcd: none, all of it, or one member of several. And the leading host's: who has one.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use keyspace::{Keyspace, Transaction};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tunnel::Certificate;

use crate::{
    cluster::Leadership,
    disk::{self, Durable},
    domain::{
        membership::{self, Candidate, Step},
        users::LAYER0,
    },
    grid::{Grid, GridStore, MEMBERS, Member, MemberId},
    identity::Folders,
    recovery,
};

/// How often a host looks whether what its member left is gone.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);
/// How often the leading host looks who has a member.
const LOOK: Duration = Duration::from_secs(3);

/// `host/etcd.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "role")]
pub(crate) enum Role {
    /// The host is a cluster of its own, and its etcd is nobody else's.
    Alone,
    /// It runs none.
    Client,
    /// It runs none for now: its member is being made anew.
    Restoring,
    /// It runs one of several.
    Member {
        /// The members there were when it was made: `name=url`, separated by commas.
        cluster: String,
        /// Whether the others were there before it.
        joined: bool,
        /// Which member it is, if it was added to others: what one knew is of no use to another. One that began a cluster
        /// never takes an id out of the grid: that may be of the cluster before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<MemberId>,
    },
}

impl Role {
    pub(crate) fn read(folders: &Folders) -> io::Result<Self> {
        Ok(disk::read_json(&folders.etcd_file())?.unwrap_or(Self::Alone))
    }

    pub(crate) fn write(&self, folders: &Folders) -> io::Result<()> {
        disk::write_json(&folders.etcd_file(), self, Durable::Synced)
    }

    pub(crate) fn is_alone(&self) -> bool {
        *self == Self::Alone
    }
}

/// Where the other members find a host's.
pub(crate) fn peer_url(addr: Ipv4Addr, port: u16) -> String {
    format!("https://{addr}:{port}")
}

/// What the host manifest says of etcd.
pub(crate) fn values(
    role: &Role,
    id: &str,
    addr: Ipv4Addr,
    ports: (u16, u16, u16),
) -> BTreeMap<&'static str, String> {
    let (client, past_tunnel, peer) = ports;
    let (port, url, cluster, state) = match role {
        Role::Alone | Role::Client | Role::Restoring => {
            let url = format!("http://127.0.0.1:{peer}");
            (client, url.clone(), format!("{id}={url}"), "new")
        }
        Role::Member { cluster, joined, .. } => {
            let url = peer_url(addr, peer);
            (past_tunnel, url, cluster.clone(), if *joined { "existing" } else { "new" })
        }
    };
    BTreeMap::from([
        ("etcd_runs", (!matches!(role, Role::Client | Role::Restoring)).to_string()),
        ("etcd_tls", if role.is_alone() { String::new() } else { "yes".into() }),
        ("etcd_port", port.to_string()),
        ("etcd_peer_url", url),
        ("etcd_cluster", cluster),
        ("etcd_state", state.into()),
        // Of manifests written for an older daemon.
        ("etcd_forced", String::new()),
    ])
}

/// Gives etcd's container the host's certificate; etcd reads it anew for every connection.
pub(crate) fn hand_over(folders: &Folders, certificate: &Certificate) -> io::Result<()> {
    let folder = folders.etcd_tls();
    disk::user_dir(&folder, LAYER0)?;
    let files = [
        ("host.pem", &certificate.chain),
        ("ca.pem", &certificate.ca),
        ("host.key", &certificate.key),
    ];
    for (name, content) in files {
        let beside = folder.join(format!("{name}.made"));
        disk::write(&beside, content.as_bytes(), Durable::Synced)?;
        std::os::unix::fs::chown(&beside, Some(LAYER0), Some(LAYER0))?;
        fs::rename(&beside, folder.join(name))?;
    }
    Ok(())
}

/// Makes the role follow what the grid says, and tells when it changes.
pub(crate) async fn follow(
    id: String,
    folders: Folders,
    grid: Arc<GridStore>,
    role: watch::Sender<Role>,
    stop: CancellationToken,
) {
    let mut seen = grid.subscribe();
    let mut tick = interval(FOLLOW_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = {
            let grid = seen.borrow_and_update();
            follow_once(&id, &role.borrow(), &grid, left_data(&folders))
        };
        // Until a recovery is over what this host had is put aside already: giving up once more would be for good.
        if let Some(next) = next.filter(|_| !recovery::is_unsettled(&folders)) {
            info!("this host's part in etcd changes: {next:?}");
            match next.write(&folders) {
                Ok(()) => _ = role.send_replace(next),
                Err(err) => warn!(error = &err as &dyn Error, "it could not be noted"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = seen.changed() => if changed.is_err() { return },
            _ = tick.tick() => {}
        }
    }
}

/// What there is of a member on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemberData {
    Nothing,
    /// It has not found the others: only then does etcd write a log.
    Unstarted,
    Started,
}

fn left_data(folders: &Folders) -> MemberData {
    let data = folders.etcd_data();
    match (data.join("member/wal").exists(), data.exists()) {
        (true, _) => MemberData::Started,
        (false, true) => MemberData::Unstarted,
        (false, false) => MemberData::Nothing,
    }
}

/// The part of a host that was added to others, if it was.
pub(crate) fn added(id: &str, grid: &Grid) -> Option<Role> {
    let own = grid.member(id)?;
    let members = grid.members.iter();
    let cluster: Vec<String> = members.map(|m| format!("{}={}", m.host, m.peer_url)).collect();
    Some(Role::Member { cluster: cluster.join(","), joined: true, id: own.id })
}

fn follow_once(id: &str, role: &Role, grid: &Grid, data: MemberData) -> Option<Role> {
    let own = grid.member(id);
    let is_member = own.is_some();
    let own_id = own.and_then(|own| own.id);
    match role {
        // What a member knew is of no use to another: whoever keeps layer 0 takes it away first, and its container.
        Role::Client if data == MemberData::Nothing => added(id, grid),
        // Nobody being a member is a grid that is not known yet.
        Role::Member { .. } if !is_member && !grid.members.is_empty() => Some(Role::Client),
        // etcd finds the others only if it is told exactly who they are, and they may have changed since.
        Role::Member { joined: true, .. } if is_member && data != MemberData::Started => {
            added(id, grid).filter(|added| added != role)
        }
        Role::Member { id: Some(was), .. } if own_id.is_some_and(|is| is != *was) => {
            Some(Role::Client)
        }
        _ => None,
    }
}

/// Tells the other members where this one is, if that has changed.
pub(crate) async fn tell_address(
    etcd: &Keyspace,
    id: &str,
    url: &str,
) -> Result<(), keyspace::Error> {
    let members = etcd.members().await?;
    let own = members.iter().find(|member| member.name == id);
    match own {
        Some(own) if own.peer_urls != [url] => {
            info!("telling etcd's members that this one is at {url}");
            etcd.move_member(own.id, url).await
        }
        _ => Ok(()),
    }
}

/// The leading host's part: who has a member.
pub(crate) struct Keeper {
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) etcd: Keyspace,
    pub(crate) grid: Arc<GridStore>,
    pub(crate) peer_port: u16,
    pub(crate) patience: Duration,
    pub(crate) away: BTreeMap<String, Instant>,
}

impl Keeper {
    pub(crate) async fn keep(mut self, stop: CancellationToken) {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let Some(present) = self.leadership.present() else {
                self.away.clear();
                continue;
            };
            if let Err(err) = self.round(&present).await {
                warn!(
                    error = &err as &dyn Error,
                    "etcd's members could not be seen to; trying again"
                );
            }
        }
    }

    async fn round(&mut self, present: &BTreeSet<String>) -> Result<(), keyspace::Error> {
        // Read first: what a leader that was paused wants to write over a newer list is refused.
        let at = self.etcd.get(MEMBERS).await?.map_or(0, |entry| entry.mod_revision);
        let members = self.etcd.members().await?;
        let grid = self.grid.now().clone();
        let told = members_told(&members, &grid, self.peer_port);
        if told != grid.members && !told.is_empty() {
            let value = serde_json::to_vec(&told).expect("members serialise");
            self.etcd.commit(unless_told_since(at).put(MEMBERS, value)).await?;
        }
        let now = Instant::now();
        self.away.retain(|id, _| !present.contains(id));
        for id in grid.hosts.keys().filter(|id| !present.contains(*id)) {
            self.away.entry(id.clone()).or_insert(now);
        }
        let seen: Vec<membership::Member> = members
            .iter()
            .map(|member| {
                let host = self.host_of(member, &grid).filter(|id| grid.hosts.contains_key(id));
                let since = host.as_ref().and_then(|id| self.away.get(id));
                let away = since.map_or(Duration::ZERO, |since| {
                    // Away since this very moment is away.
                    (now - *since).max(Duration::from_nanos(1))
                });
                membership::Member { id: member.id, host, learner: member.learner, away }
            })
            .collect();
        match membership::next(&seen, &candidates(&grid, present), self.patience) {
            None => Ok(()),
            Some(step) => self.take(step, &grid).await,
        }
    }

    async fn take(&self, step: Step, grid: &Grid) -> Result<(), keyspace::Error> {
        match step {
            Step::Add(id) => {
                let Some(record) = grid.hosts.get(&id) else { return Ok(()) };
                info!("host {id} becomes a member of etcd");
                self.etcd.add_learner(&peer_url(record.addr, self.peer_port)).await
            }
            Step::Promote(id) => self.etcd.promote(id).await.inspect(|()| {
                info!("member {id:x} of etcd has its vote");
            }),
            Step::Remove(id) => {
                info!("member {id:x} of etcd goes");
                self.etcd.remove_member(id).await
            }
        }
    }

    /// A member that has not started yet has no name, but an address.
    fn host_of(&self, member: &keyspace::Member, grid: &Grid) -> Option<String> {
        host_of(member, grid, self.peer_port)
    }
}

fn host_of(member: &keyspace::Member, grid: &Grid, peer_port: u16) -> Option<String> {
    if !member.name.is_empty() {
        return Some(member.name.clone());
    }
    let is_at = |addr| member.peer_urls.contains(&peer_url(addr, peer_port));
    grid.hosts.iter().find(|(_, record)| is_at(record.addr)).map(|(id, _)| id.clone())
}

/// A change that is refused when the list of members has been written after that revision, 0 for never.
pub(crate) fn unless_told_since(revision: u64) -> Transaction {
    match revision {
        0 => Transaction::new().when_absent(MEMBERS),
        at => Transaction::new().when_unchanged(MEMBERS, at),
    }
}

/// The members etcd has, as they are told to the hosts.
pub(crate) fn members_told(members: &[keyspace::Member], grid: &Grid, port: u16) -> Vec<Member> {
    members.iter().filter_map(|member| told(member, host_of(member, grid, port)?)).collect()
}

fn told(member: &keyspace::Member, host: String) -> Option<Member> {
    let peer_url = member.peer_urls.first()?.clone();
    Some(Member { host, peer_url, learner: member.learner, id: Some(MemberId(member.id)) })
}

/// The one that joined first comes first.
fn candidates(grid: &Grid, present: &BTreeSet<String>) -> Vec<Candidate> {
    let mut hosts: Vec<_> = grid.hosts.iter().collect();
    hosts.sort_by_key(|(id, record)| (record.joined_at, (*id).clone()));
    let candidate =
        |(id, _): (&String, _)| Candidate { id: id.clone(), ready: present.contains(id) };
    hosts.into_iter().map(candidate).collect()
}

/// Puts a member's data aside that is of no use any more. The last such folder is kept: should the list of members have
/// been wrong, nothing is lost yet.
pub(crate) fn forget(data: &Path) -> io::Result<()> {
    if !data.try_exists()? {
        return Ok(());
    }
    let aside = put_aside(data);
    match fs::remove_dir_all(&aside) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        done => done?,
    }
    fs::rename(data, aside)
}

/// Where a member's data is that was put aside.
pub(crate) fn put_aside(data: &Path) -> PathBuf {
    data.with_extension("aside")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(members: &[&str]) -> Grid {
        let member = |host: &&str| Member {
            host: (*host).into(),
            peer_url: format!("https://{host}:2380"),
            learner: false,
            id: None,
        };
        Grid { members: members.iter().map(member).collect(), ..Grid::default() }
    }

    #[test]
    fn data_of_a_member_that_goes_is_put_aside_and_the_last_kept() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("etcd");
        for n in ["first", "second"] {
            fs::create_dir(&data).unwrap();
            fs::write(data.join(n), n).unwrap();
            forget(&data).unwrap();
            assert!(!data.exists());
        }
        forget(&data).unwrap();
        let kept = fs::read_dir(dir.path().join("etcd.aside")).unwrap();
        let kept: Vec<_> = kept.map(|file| file.unwrap().file_name()).collect();
        assert_eq!(kept, ["second"]);
    }

    #[test]
    fn a_host_follows_what_the_leading_one_decided() {
        let member = Role::Member {
            cluster: "a=https://a:2380,b=https://b:2380".into(),
            joined: true,
            id: None,
        };
        let next = |role: &Role, members: &[&str]| {
            let data =
                if *role == Role::Client { MemberData::Nothing } else { MemberData::Started };
            follow_once("b", role, &grid(members), data)
        };
        assert_eq!(next(&Role::Client, &["a", "b"]), Some(member.clone()));
        assert_eq!(next(&member, &["a", "b"]), None);
        assert_eq!(next(&member, &["a"]), Some(Role::Client));
        // Before anything is known nothing is given up.
        assert_eq!(next(&member, &[]), None);
        assert_eq!(next(&Role::Alone, &["a"]), None);
    }

    #[test]
    fn a_member_that_has_not_found_the_others_is_told_who_they_are_by_now() {
        let member =
            follow_once("b", &Role::Client, &grid(&["a", "b", "c"]), MemberData::Nothing).unwrap();
        let fewer = grid(&["a", "b"]);
        let told = follow_once("b", &member, &fewer, MemberData::Unstarted).unwrap();
        let Role::Member { cluster, .. } = &told else { panic!("{told:?}") };
        assert_eq!(cluster, "a=https://a:2380,b=https://b:2380");
        assert_eq!(follow_once("b", &told, &fewer, MemberData::Unstarted), None);
        assert_eq!(
            follow_once("b", &member, &fewer, MemberData::Started),
            None,
            "it is one of them"
        );
    }

    #[test]
    fn a_host_that_is_another_member_by_now_begins_anew_once_the_old_one_is_gone() {
        let own = |n| Member { id: Some(MemberId(n)), ..grid(&["b"]).members[0].clone() };
        let now = |n| Grid { members: vec![own(n)], ..Grid::default() };
        let was = follow_once("b", &Role::Client, &now(1), MemberData::Nothing).unwrap();
        assert_eq!(follow_once("b", &was, &now(1), MemberData::Started), None);
        assert_eq!(follow_once("b", &was, &now(2), MemberData::Started), Some(Role::Client));
        assert_eq!(follow_once("b", &Role::Client, &now(2), MemberData::Started), None);
        let is = follow_once("b", &Role::Client, &now(2), MemberData::Nothing);
        assert!(matches!(is, Some(Role::Member { id: Some(MemberId(2)), joined: true, .. })));
    }

    #[test]
    fn one_that_began_a_cluster_stays_whatever_id_the_one_before_gave_it() {
        let cluster = "b=https://b:2380".to_owned();
        let role = Role::Member { cluster, joined: false, id: None };
        let own = Member { id: Some(MemberId(7)), ..grid(&["b"]).members[0].clone() };
        let now = Grid { members: vec![own], ..Grid::default() };
        assert_eq!(follow_once("b", &role, &now, MemberData::Started), None);
    }

    #[test]
    fn a_member_of_several_is_behind_the_tunnel_and_speaks_tls() {
        let addr = [10, 0, 0, 1].into();
        let alone = values(&Role::Alone, "a", addr, (2379, 2381, 2380));
        assert_eq!((alone["etcd_port"].as_str(), alone["etcd_tls"].as_str()), ("2379", ""));
        let role =
            Role::Member { cluster: "a=https://10.0.0.1:2380".into(), joined: false, id: None };
        let member = values(&role, "a", addr, (2379, 2381, 2380));
        assert_eq!(member["etcd_port"], "2381");
        assert_eq!(member["etcd_peer_url"], "https://10.0.0.1:2380");
        assert_eq!(values(&Role::Client, "a", addr, (2379, 2381, 2380))["etcd_runs"], "false");
    }

    #[tokio::test]
    async fn an_older_list_of_members_is_not_told_over_a_newer_one() {
        let server = testkit::Etcd::start().await;
        let etcd = Keyspace::connect(&[server.url()]).await.unwrap();
        let tell = |at, list: &'static str| etcd.commit(unless_told_since(at).put(MEMBERS, list));
        let now = async || etcd.get(MEMBERS).await.unwrap();
        tell(0, "first").await.unwrap();
        let first = now().await.unwrap().mod_revision;
        tell(first, "newer").await.unwrap();
        // Of two leaders that were paused since: one had found no list, the other the first.
        for read in [0, first] {
            assert!(tell(read, "older").await.unwrap_err().is_conflict());
        }
        assert_eq!(now().await.unwrap().value, "newer");
    }
}
