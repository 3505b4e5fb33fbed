//! What a host does as one of several: its tunnel, its place among the others, and etcd's members.

use std::{
    collections::BTreeMap,
    error::Error,
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use daemon::{Lifetime, reconcile::Reconcile};
use jiff::Timestamp;
use keyspace::{Keyspace, Transaction};
use rand::seq::SliceRandom;
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, timeout},
};
use tracing::{debug, error, info, warn};
use tunnel::{Authority, Identity};

use crate::{
    backend::network::JobNetwork,
    cluster::Leadership,
    config::Config,
    disk,
    domain::{manifest, net::Cidr},
    etcd::{self, Keeper, Role},
    grid::{GridStore, HOSTS, MEMBERS, Member, Record},
    host::Host,
    identity::{self, Folders, HostFile},
    join::{self, Invitation},
    leaving,
    server::ETCD,
    tunnel::{Entrance, Ports, Tunnel},
};

/// How old a certificate becomes before it is made anew.
const RENEWAL: Duration = Duration::from_secs(24 * 3600);
/// So many others are asked at once whether this host was removed.
const ASKED: usize = 5;
/// Longest time until a member of etcd on another host says that it has a quorum.
const ETCD_ANSWER: Duration = Duration::from_secs(3);
/// Pause before the network to other hosts is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// The host as one of several.
#[derive(Debug)]
pub(crate) struct Neighbours {
    pub(crate) id: String,
    pub(crate) folders: Folders,
    /// Where the others find this host.
    pub(crate) addr: Ipv4Addr,
    pub(crate) grid: Arc<GridStore>,
    /// Its part in etcd.
    pub(crate) role: watch::Sender<Role>,
    tunnel: Arc<Tunnel>,
    tunnel_port: u16,
    pub(crate) peer_port: u16,
    redirect_port: u16,
    patience: Duration,
    authority: Authority,
    fixed_addr: bool,
    joining: std::sync::Mutex<Option<TcpListener>>,
    pub(crate) etcd_image: String,
    /// When it joined, by its own file: what etcd says of a host of its id may be of another machine.
    joined_at: std::sync::Mutex<Option<Timestamp>>,
    /// Held while etcd is recovered: once at a time.
    pub(crate) recovering: tokio::sync::Mutex<()>,
}

/// The host cannot be one of them any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// It was removed.
    #[error(
        "this host was removed from its cluster, and runs nothing any more; to use this machine again, remove its data \
         directory and join anew"
    )]
    Removed,
    /// The cluster does not know it, and nobody removed it.
    #[error(
        "this host's cluster does not know it, as after a recovery that lost what was newest; to use this machine \
         again, stop what runs on it, remove its data directory, and join anew"
    )]
    Forgotten,
    /// Another has its name.
    #[error("another machine has joined the cluster as host {0}; join anew with another --id")]
    Another(String),
    /// etcd.
    #[error(transparent)]
    Etcd(#[from] keyspace::Error),
}

async fn listen(addr: impl Into<SocketAddr>) -> anyhow::Result<TcpListener> {
    let addr = addr.into();
    TcpListener::bind(addr).await.with_context(|| format!("listening on {addr}"))
}

impl Neighbours {
    /// Opens the tunnel. What this host asks etcd goes through it, so it comes before everything.
    pub(crate) async fn open(
        config: &Config,
        file: &HostFile,
        folders: &Folders,
        role: Role,
        lifetime: &Lifetime,
    ) -> anyhow::Result<Arc<Self>> {
        let grid = GridStore::open(folders.grid_file()).context("reading host/grid.json")?;
        let grid = Arc::new(grid);
        let addr = address(file, &grid)?;
        let by_grid = || grid.now().hosts.get(&file.id).map(|record| record.joined_at);
        let joined_at = file.joined_at.or_else(by_grid);
        let authority = identity::ensure_authority(folders)?;
        let certificate = authority.issue(&file.id, addr.into())?;
        etcd::hand_over(folders, &certificate).context("giving etcd its certificate")?;
        let joining = listen((Ipv4Addr::LOCALHOST, 0)).await?;
        let ports = Ports {
            etcd: config.etcd_member_port,
            host: config.port,
            discoverd: config.discoverd_port,
            router: config.router_api_port,
            join: joining.local_addr()?.port(),
        };
        let identity = Identity::new(&certificate)?;
        let tunnel = Arc::new(Tunnel::new(&file.id, ports, grid.clone(), identity));
        let to_others = listen((addr, config.tunnel_port)).await?;
        let to_etcd = listen((Ipv4Addr::LOCALHOST, config.etcd_port)).await?;
        let relay = listen((Ipv4Addr::LOCALHOST, config.relay_port)).await?;
        let redirected = listen((Ipv4Addr::LOCALHOST, config.redirect_port)).await?;
        lifetime.spawn("tunnel", |stop| tunnel.clone().serve(Entrance::Others, to_others, stop));
        lifetime
            .spawn("tunnel to etcd", |stop| tunnel.clone().serve(Entrance::Etcd, to_etcd, stop));
        lifetime.spawn("relay", |stop| tunnel.clone().serve(Entrance::Relay, relay, stop));
        lifetime.spawn("redirected", |stop| {
            tunnel.clone().serve(Entrance::Redirected, redirected, stop)
        });
        info!("the tunnel of host {} is at {addr}:{}", file.id, config.tunnel_port);
        Ok(Arc::new(Self {
            id: file.id.clone(),
            folders: folders.clone(),
            addr,
            grid,
            role: watch::Sender::new(role),
            tunnel,
            tunnel_port: config.tunnel_port,
            peer_port: config.etcd_peer_port,
            redirect_port: config.redirect_port,
            patience: config.member_patience,
            authority,
            fixed_addr: file.addr.is_some(),
            joining: std::sync::Mutex::new(Some(joining)),
            etcd_image: manifest::image_of(&config.manifest_text()?, ETCD)?,
            joined_at: std::sync::Mutex::new(joined_at),
            recovering: tokio::sync::Mutex::default(),
        }))
    }

    /// Follows the others, from when etcd can be asked and the job network is there.
    pub(crate) async fn follow(
        self: &Arc<Self>,
        etcd: &Keyspace,
        range: Cidr,
        network: &JobNetwork,
        lifetime: &Lifetime,
    ) -> anyhow::Result<()> {
        let redirected = listen((network.gateway(), self.redirect_port)).await?;
        lifetime.spawn("redirected jobs", |stop| {
            self.tunnel.clone().serve(Entrance::Redirected, redirected, stop)
        });
        let (grid, from) = (self.grid.clone(), etcd.clone());
        lifetime.spawn("grid", move |stop| async move { grid.keep(&from, stop).await });
        let (id, folders, grid, role) =
            (self.id.clone(), self.folders.clone(), self.grid.clone(), self.role.clone());
        lifetime.spawn("part in etcd", move |stop| etcd::follow(id, folders, grid, role, stop));
        let (this, network) = (self.clone(), network.clone());
        lifetime.spawn("overlay", move |stop| async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = this.lead_to_others(&network) => {}
            }
        });
        let joining = self.joining.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(joining) = joining {
            let host = join::Host { folders: self.folders.clone(), range, etcd: etcd.clone() };
            lifetime.serve(joining, join::router(host));
        }
        Ok(())
    }

    /// Makes the job network lead to the other hosts as soon as they come.
    async fn lead_to_others(&self, network: &JobNetwork) {
        let mut seen = self.grid.subscribe();
        loop {
            let peers = seen.borrow_and_update().peers(&self.id);
            if let Err(err) = network.ensure_overlay(&peers).await {
                warn!(error = &err as &dyn Error, "the job network does not lead to every host");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            if seen.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes another part in etcd, for good.
    pub(crate) fn take_role(&self, role: Role) -> io::Result<()> {
        role.write(&self.folders)?;
        self.role.send_replace(role);
        Ok(())
    }

    /// The leading host's part.
    pub(crate) fn lead(&self, leadership: Arc<Leadership>, etcd: Keyspace, lifetime: &Lifetime) {
        let keeper = Keeper {
            leadership,
            etcd,
            grid: self.grid.clone(),
            peer_port: self.peer_port,
            patience: self.patience,
            away: BTreeMap::new(),
        };
        lifetime.spawn("members of etcd", |stop| keeper.keep(stop));
    }

    /// Asks some of the others, once etcd cannot be asked, whether this host was removed: their tunnels let none in that was.
    async fn was_removed(&self) -> bool {
        let mut others: Vec<(String, SocketAddr)> = {
            let grid = self.grid.now();
            let others = grid.hosts.iter().filter(|(id, _)| **id != self.id);
            others.map(|(id, record)| (id.clone(), record.tunnel())).collect()
        };
        others.shuffle(&mut rand::rng());
        others.truncate(ASKED);
        let joined_at = self.joined_at();
        let asked = others.iter().map(|(id, addr)| async move {
            join::was_removed(&self.tunnel, (id, *addr), joined_at).await.unwrap_or_else(|err| {
                debug!(
                    error = &err as &dyn Error,
                    "{id} does not say whether this host was removed"
                );
                false
            })
        });
        futures_util::future::join_all(asked).await.contains(&true)
    }

    /// Whether the member of etcd on this host answers, which it does with a quorum only.
    pub(crate) async fn etcd_serves_here(&self) -> bool {
        match timeout(ETCD_ANSWER, self.tunnel.etcd_serves_here()).await {
            Ok(Ok(serves)) => serves,
            Ok(Err(err)) => {
                debug!(error = &err as &dyn Error, "this host's member of etcd does not answer");
                false
            }
            Err(_) => false,
        }
    }

    /// Whether one of those members of etcd answers that is of another host, which it does with a quorum only, one without
    /// a vote too.
    pub(crate) async fn etcd_serves_elsewhere(&self, members: &[Member]) -> bool {
        let others: Vec<(&str, SocketAddr)> = {
            let grid = self.grid.now();
            let others = members.iter().filter(|member| member.host != self.id);
            let tunnel = |host: &str| grid.hosts.get(host).map(Record::tunnel);
            others.filter_map(|other| Some((other.host.as_str(), tunnel(&other.host)?))).collect()
        };
        let asked = others.into_iter().map(|(id, addr)| async move {
            match timeout(ETCD_ANSWER, self.tunnel.etcd_serves(id, addr)).await {
                Ok(Ok(serves)) => serves,
                Ok(Err(err)) => {
                    debug!(
                        error = &err as &dyn Error,
                        "the member of etcd on {id} does not answer"
                    );
                    false
                }
                Err(_) => false,
            }
        });
        futures_util::future::join_all(asked).await.contains(&true)
    }

    /// When this host joined, if it is known.
    pub(crate) fn joined_at(&self) -> Option<Timestamp> {
        *self.joined_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// When this host joined; as etcd says if nothing else does, and that counts from then on.
    fn joined_at_or(&self, there: Timestamp) -> Timestamp {
        let mut kept = self.joined_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *kept.get_or_insert(there)
    }

    /// Why etcd does not know this host.
    async fn why_unknown(&self, etcd: &Keyspace) -> Result<Lost, Lost> {
        let standing = leaving::standing(etcd, &self.id, self.joined_at()).await?;
        Ok(if standing.removed { Lost::Removed } else { Lost::Forgotten })
    }

    /// Tells the others where this host is.
    pub(crate) async fn tell(&self, etcd: &Keyspace, subnet: Cidr) -> Result<(), Lost> {
        let key = format!("{HOSTS}{}", self.id);
        let Some(found) = etcd.get(&key).await? else {
            if !etcd.list(HOSTS).await?.entries.is_empty() {
                return Err(self.why_unknown(etcd).await?);
            }
            let Some(joined_at) = self.joined_at() else { return Err(Lost::Forgotten) };
            return self.found(etcd, &key, self.record(joined_at, subnet)).await;
        };
        let there: Option<Record> = serde_json::from_slice(&found.value).ok();
        let Some(there) = there else { return Err(Lost::Forgotten) };
        let joined_at = self.joined_at_or(there.joined_at);
        // An older one is of a machine that this one came after: recovering etcd lost that, and the other leaves.
        if there.joined_at > joined_at {
            return Err(Lost::Another(self.id.clone()));
        }
        let record = self.record(joined_at, subnet);
        if record != there {
            let value = serde_json::to_vec(&record).expect("a record serialises");
            let put = Transaction::new().when_unchanged(&key, found.mod_revision).put(&key, value);
            etcd.commit(put).await?;
            info!("this host is at {} with subnet {subnet}", self.addr);
        }
        if matches!(*self.role.borrow(), Role::Member { .. }) {
            etcd::tell_address(etcd, &self.id, &etcd::peer_url(self.addr, self.peer_port)).await?;
        }
        Ok(())
    }

    fn record(&self, joined_at: Timestamp, subnet: Cidr) -> Record {
        let (addr, tunnel_port) = (self.addr, self.tunnel_port);
        Record { addr, tunnel_port, subnet: Some(subnet), joined_at }
    }

    /// The first host is the first to say who there is.
    async fn found(&self, etcd: &Keyspace, key: &str, record: Record) -> Result<(), Lost> {
        let value = serde_json::to_vec(&record).expect("a record serialises");
        let members = serde_json::to_vec(&self.grid.now().members).expect("members serialise");
        let put = Transaction::new().when_absent(key).put(key, value).put(MEMBERS, members);
        etcd.commit(put).await?;
        Ok(())
    }

    /// An invitation for one machine.
    pub(crate) async fn invite(&self, etcd: &Keyspace) -> anyhow::Result<Invitation> {
        let tunnel = (self.addr, self.tunnel_port).into();
        let (invitation, kept) = join::invite(tunnel, self.authority.fingerprint()?);
        join::keep(etcd, &kept).await?;
        Ok(invitation)
    }

    /// Keeps the invitation that `init` made.
    async fn publish_invitation(&self, etcd: &Keyspace) -> anyhow::Result<()> {
        let path = self.folders.invite_file();
        if let Some(kept) = disk::read_json(&path)? {
            join::keep(etcd, &kept).await?;
            fs::remove_file(&path)?;
        }
        Ok(())
    }

    fn renew(&self) -> anyhow::Result<()> {
        let certificate = self.authority.issue(&self.id, self.addr.into())?;
        etcd::hand_over(&self.folders, &certificate)?;
        self.tunnel.renew(Identity::new(&certificate)?);
        Ok(())
    }
}

/// Where this host is now: as it was told, or as the machine is set up.
fn address(file: &HostFile, grid: &GridStore) -> anyhow::Result<Ipv4Addr> {
    if let Some(addr) = file.addr {
        return Ok(addr);
    }
    let other = grid.now().hosts.iter().find(|(id, _)| **id != file.id).map(|(_, r)| r.tunnel());
    Ok(identity::own_address(other)?)
}

/// What is looked at again and again.
pub(crate) struct Place {
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) host: Arc<Host>,
    pub(crate) etcd: Keyspace,
    pub(crate) subnet: Cidr,
    pub(crate) file: HostFile,
    pub(crate) lifetime: Lifetime,
    pub(crate) renewed: Instant,
}

impl Reconcile for Place {
    type Error = io::Error;

    async fn reconcile(&mut self) -> Result<(), io::Error> {
        let Self { neighbours, host, etcd, subnet, file, lifetime, renewed } = self;
        if !neighbours.fixed_addr
            && let Ok(addr) = address(file, &neighbours.grid)
            && addr != neighbours.addr
        {
            warn!("this host's address changes from {} to {addr}; starting anew", neighbours.addr);
            lifetime.end();
            return Ok(());
        }
        if renewed.elapsed() > RENEWAL {
            neighbours.renew().map_err(io::Error::other)?;
            *renewed = Instant::now();
        }
        match neighbours.tell(etcd, *subnet).await {
            Err(err @ (Lost::Removed | Lost::Another(_))) => {
                leaving::leave(host, &err.to_string()).await;
                return Ok(());
            }
            Err(err @ Lost::Forgotten) => {
                error!("{err}");
                lifetime.end();
                return Ok(());
            }
            Err(Lost::Etcd(_)) if neighbours.was_removed().await => {
                leaving::leave(host, &Lost::Removed.to_string()).await;
                return Ok(());
            }
            done => done.map_err(io::Error::other)?,
        }
        neighbours.publish_invitation(etcd).await.map_err(io::Error::other)
    }
}
