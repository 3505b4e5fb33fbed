//! The tunnel between hosts: mutual TLS on one port of the host's own address.
//!
//! Four ways lead into it. What another host's tunnel brings goes to the service it names. What a process on this host
//! opens to etcd's port goes to etcd, here or on another host. What this host's discoverd opens to the relay's port goes to
//! the discoverd of a host with a member of etcd. And what a job or a process opens to **another host's**
//! gateway address, at a port of ours, is redirected here by the packet filter and goes to that host: so nobody who calls
//! a daemon of another host has to know of TLS, and nothing of it crosses the network in the clear.

use std::{
    error::Error,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use daemon::{
    Sources,
    line::Line,
    relay::{relay, relay_lines},
};
use http::StatusCode;
use http_body_util::Full;
use rand::seq::SliceRandom;
use rustix::net::sockopt::ip_original_dst;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};
use tunnel::{Identity, Service, TunnelError, accept, dial};

use crate::{
    grid::GridStore,
    join::{self, JoinError},
};

/// Connections at once, of each way.
const CONNECTIONS: usize = 8192;
/// Of these, from one source: a job, or a machine that is no host we know.
const CONNECTIONS_PER_SOURCE: usize = 256;
/// Longest time until a service on this host takes a connection.
const LOCAL: Duration = Duration::from_secs(2);
/// Pause when no connection can be accepted: those that end make room.
const PAUSE: Duration = Duration::from_millis(50);

/// Ports of the services on this host.
#[derive(Debug, Clone)]
pub(crate) struct Ports {
    /// etcd itself, past the tunnel.
    pub(crate) etcd: u16,
    pub(crate) host: u16,
    pub(crate) discoverd: u16,
    pub(crate) router: u16,
    /// Where who joins is served.
    pub(crate) join: u16,
}

/// Where a connection enters.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entrance {
    /// The tunnel's own port: what other hosts bring.
    Others,
    /// etcd's port for this host's own processes: etcd itself if it runs here and has a vote, or a member elsewhere.
    Etcd,
    /// Where this host's discoverd finds that of a host with a member of etcd, so that it need not watch etcd itself. On a
    /// host with a member there is none to follow.
    Relay,
    /// Where the packet filter redirects what is meant for other hosts' daemons.
    Redirected,
}

/// The tunnel of this host.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) id: String,
    pub(crate) ports: Ports,
    pub(crate) grid: Arc<GridStore>,
    identity: Mutex<Identity>,
    tasks: TaskTracker,
}

/// No way leads there.
#[derive(Debug, thiserror::Error)]
enum Way {
    #[error("no host of the cluster has the address {0}")]
    NoHost(Ipv4Addr),
    #[error("no service of ours is at port {0}")]
    NoService(u16),
    #[error("no host with a member of etcd can be reached: {0}")]
    NoMember(String),
    #[error("this host has a member of etcd itself")]
    Own,
    #[error("etcd goes on without the member that this led to")]
    NoVote,
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Both ways at once.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl Tunnel {
    pub(crate) fn new(id: &str, ports: Ports, grid: Arc<GridStore>, identity: Identity) -> Self {
        let tasks = TaskTracker::new();
        Self { id: id.into(), ports, grid, identity: Mutex::new(identity), tasks }
    }

    fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows another certificate from now on.
    pub(crate) fn renew(&self, identity: Identity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Asks another host something that every machine may ask.
    pub(crate) async fn ask(
        &self,
        id: &str,
        addr: SocketAddr,
        request: http::Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), JoinError> {
        let stream = dial(addr, id, Service::Join, &self.identity()).await?;
        join::exchange(stream, request).await
    }

    /// Whether etcd on another host answers, which it does with a quorum only.
    pub(crate) async fn etcd_serves(&self, id: &str, addr: SocketAddr) -> Result<bool, JoinError> {
        is_healthy(dial(addr, id, Service::Etcd, &self.identity()).await?).await
    }

    /// The same of this host's own.
    pub(crate) async fn etcd_serves_here(&self) -> Result<bool, JoinError> {
        let etcd = self.local(Service::Etcd).await;
        is_healthy(etcd.map_err(|err| JoinError::Lost(err.to_string()))?).await
    }

    fn port(&self, service: Service) -> u16 {
        match service {
            Service::Etcd => self.ports.etcd,
            Service::Host => self.ports.host,
            Service::Join => self.ports.join,
            Service::Discoverd => self.ports.discoverd,
            Service::Router => self.ports.router,
        }
    }

    fn service(&self, port: u16) -> Option<Service> {
        [Service::Host, Service::Discoverd, Service::Router]
            .into_iter()
            .find(|service| self.port(*service) == port)
    }

    async fn local(&self, service: Service) -> io::Result<TcpStream> {
        let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port(service)));
        let stream = timeout(LOCAL, connected).await.map_err(|_| io::ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn incoming(&self, stream: TcpStream, peer: SocketAddr) -> Result<(), Way> {
        let accepted = accept(stream, peer, &self.identity()).await?;
        // Whoever is no host may ask to become one, and one that was whether it is one still.
        if let Some(id) = accepted.id.as_ref().filter(|_| accepted.service != Service::Join) {
            // One that was removed has its certificate still.
            let known = self.grid.now().hosts.contains_key(id);
            if !known {
                return Err(
                    TunnelError::Refused { addr: peer, said: "is of no host we know" }.into()
                );
            }
        }
        let local = self.local(accepted.service).await?;
        let (line, line_of_local) = (Line::of(accepted.stream.get_ref().0), Line::of(&local));
        relay_lines((accepted.stream, line), (local, line_of_local)).await.await;
        Ok(())
    }

    /// A member of etcd, and its host.
    async fn member(&self) -> Result<(String, Box<dyn Duplex>), Way> {
        let (own, _) = self.members();
        if own {
            match self.local(Service::Etcd).await {
                Ok(stream) => return Ok((self.id.clone(), Box::new(stream))),
                Err(err) => debug!(error = %err, "etcd on this host cannot be reached"),
            }
        }
        self.elsewhere(Service::Etcd).await
    }

    /// Leads to etcd while the member there has its vote: one that lost it, as after a recovery, may answer for ever and
    /// serve nothing.
    async fn etcd(&self, stream: TcpStream) -> Result<(), Way> {
        let (host, etcd) = self.member().await?;
        let mut grid = self.grid.subscribe();
        let without = grid.wait_for(|grid| !grid.votes(&host));
        let relayed = async { relay(stream, etcd).await.await };
        tokio::select! {
            biased;
            _ = without => Err(Way::NoVote),
            () = relayed => Ok(()),
        }
    }

    async fn relay(&self, stream: TcpStream) -> Result<(), Way> {
        let mut grid = self.grid.subscribe();
        let votes = grid.wait_for(|grid| grid.votes(&self.id));
        let relayed = async {
            let (_, discoverd) = self.elsewhere(Service::Discoverd).await?;
            relay(stream, discoverd).await.await;
            Ok(())
        };
        tokio::select! {
            biased;
            _ = votes => Err(Way::Own),
            done = relayed => done,
        }
    }

    /// A service on another host with a member of etcd, and that host.
    async fn elsewhere(&self, service: Service) -> Result<(String, Box<dyn Duplex>), Way> {
        let (_, mut others) = self.members();
        let mut failures = Vec::new();
        others.shuffle(&mut rand::rng());
        for (id, addr) in others {
            match dial(addr, &id, service, &self.identity()).await {
                Ok(stream) => return Ok((id, Box::new(stream))),
                Err(err) => failures.push(format!("{id}: {err}")),
            }
        }
        Err(Way::NoMember(failures.join("; ")))
    }

    /// Whether a member with a vote runs here, and where the others are.
    fn members(&self) -> (bool, Vec<(String, SocketAddr)>) {
        let grid = self.grid.now();
        let others = grid.voters().filter(|member| member.host != self.id);
        let others = others.filter_map(|member| {
            Some((member.host.clone(), grid.hosts.get(&member.host)?.tunnel()))
        });
        (grid.votes(&self.id), others.collect())
    }

    async fn redirected(&self, stream: TcpStream) -> Result<(), Way> {
        let meant: SocketAddrV4 = ip_original_dst(&stream).map_err(io::Error::from)?;
        let service = self.service(meant.port()).ok_or(Way::NoService(meant.port()))?;
        let (id, addr) = {
            let grid = self.grid.now();
            let (id, record) = grid.at_gateway(*meant.ip()).ok_or(Way::NoHost(*meant.ip()))?;
            (id.to_owned(), record.tunnel())
        };
        let line = Line::of(&stream);
        if id == self.id {
            let local = self.local(service).await?;
            let line_of_local = Line::of(&local);
            relay_lines((stream, line), (local, line_of_local)).await.await;
        } else {
            let other = dial(addr, &id, service, &self.identity()).await?;
            let line_of_other = Line::of(other.get_ref().0);
            relay_lines((stream, line), (other, line_of_other)).await.await;
        }
        Ok(())
    }

    /// Leads a connection to where it is meant to go.
    async fn lead(
        &self,
        entrance: Entrance,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<(), Way> {
        match entrance {
            Entrance::Others => self.incoming(stream, peer).await?,
            Entrance::Etcd => self.etcd(stream).await?,
            Entrance::Relay => self.relay(stream).await?,
            Entrance::Redirected => self.redirected(stream).await?,
        }
        Ok(())
    }

    /// Whether that is the address of a host: its connections are those of all that runs there.
    fn is_host(&self, peer: SocketAddr) -> bool {
        self.grid.now().hosts.values().any(|record| IpAddr::V4(record.addr) == peer.ip())
    }

    /// Takes what enters there.
    pub(crate) async fn serve(
        self: Arc<Self>,
        entrance: Entrance,
        listener: TcpListener,
        stop: CancellationToken,
    ) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let sources = Sources::new(CONNECTIONS_PER_SOURCE);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = one(&listener, &room) => accepted,
            };
            match accepted {
                Ok((stream, peer, permit)) => {
                    let of_host = self.is_host(peer);
                    let share = if of_host { None } else { sources.enter(peer.ip()) };
                    if share.is_none() && !of_host {
                        debug!(%peer, "{} has as many connections as it may have", peer.ip());
                        continue;
                    }
                    let (this, stop) = (self.clone(), stop.clone());
                    self.tasks.spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            done = this.lead(entrance, stream, peer) => if let Err(err) = done {
                                debug!(error = &err as &dyn Error, %peer, "a connection leads nowhere");
                            },
                        }
                        drop((share, permit));
                    });
                }
                Err(err) => {
                    warn!(error = &err as &dyn Error, "the tunnel cannot accept connections");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Whether etcd says that it serves.
async fn is_healthy(etcd: impl Duplex + 'static) -> Result<bool, JoinError> {
    // One that is full serves what was written until then.
    let request = http::Request::get("/health?exclude=NOSPACE")
        .header(http::header::HOST, "etcd")
        .body(Full::default())
        .map_err(|err| JoinError::Lost(err.to_string()))?;
    let (status, _) = join::exchange(etcd, request).await?;
    Ok(status.is_success())
}

async fn one(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer, permit))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tunnel::Authority;

    use super::*;
    use crate::{
        disk::{self, Durable},
        grid::{Grid, Member, Record},
    };

    /// Below what a handshake may take.
    const SOON: Duration = Duration::from_secs(3);

    /// The member of a host.
    fn of(host: &str) -> Member {
        Member { host: host.into(), peer_url: "u".into(), learner: false, id: None }
    }

    fn identity(authority: &Authority, id: &str) -> Identity {
        let certificate = authority.issue(id, [127, 0, 0, 1].into()).unwrap();
        Identity::new(&certificate).unwrap()
    }

    #[tokio::test]
    async fn what_leads_to_a_member_of_etcd_ends_with_its_vote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grid.json");
        let local = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (other, own, entrance) = (local().await, local().await, local().await);
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let record = Record {
            addr: Ipv4Addr::LOCALHOST,
            tunnel_port: port(&other),
            subnet: None,
            joined_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let grid = Grid { hosts: [("b".to_owned(), record)].into(), members: vec![of("b")] };
        disk::write_json(&path, &grid, Durable::Renamed).unwrap();
        let grid = Arc::new(GridStore::open(path).unwrap());
        let authority = Authority::make().unwrap();
        let ports = Ports { etcd: port(&own), host: 9, discoverd: 9, router: 9, join: 9 };
        let this = Tunnel::new("a", ports, grid.clone(), identity(&authority, "a"));
        let (stop, at) = (CancellationToken::new(), entrance.local_addr().unwrap());
        let calls = async {
            let (mut caller, taken) = tokio::join!(TcpStream::connect(at), async {
                let (stream, peer) = other.accept().await.unwrap();
                accept(stream, peer, &identity(&authority, "b")).await.unwrap()
            });
            // The member there goes on answering, whatever it was that etcd goes on with.
            grid.follow(vec![of("a")]);
            let read = timeout(testkit::LIMIT, caller.as_mut().unwrap().read(&mut [0])).await;
            assert_eq!(read.expect("it ends").unwrap_or_default(), 0);
            drop(taken);
            let (caller, taken) = tokio::join!(TcpStream::connect(at), own.accept());
            let (mut caller, mut etcd) = (caller.unwrap(), taken.unwrap().0);
            grid.follow(vec![of("a"), of("b")]);
            caller.write_all(b"x").await.unwrap();
            assert_eq!(etcd.read(&mut [0]).await.unwrap(), 1, "its own has its vote still");
            stop.cancel();
        };
        tokio::join!(Arc::new(this).serve(Entrance::Etcd, entrance, stop.clone()), calls);
    }

    #[tokio::test]
    async fn a_source_has_its_part_of_the_connections_and_others_come_through() {
        let dir = tempfile::tempdir().unwrap();
        let grid = Arc::new(GridStore::open(dir.path().join("grid.json")).unwrap());
        let authority = Authority::make().unwrap();
        let identity = identity(&authority, "a");
        let ports = Ports { etcd: 9, host: 9, discoverd: 9, router: 9, join: 9 };
        let this = Arc::new(Tunnel::new("a", ports, grid, identity.clone()));
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let machine = crate::identity::own_address(None).unwrap();
        let stop = CancellationToken::new();
        let calls = async {
            let silent = async || TcpStream::connect((machine, port)).await.unwrap();
            let mut held = Vec::new();
            for _ in 0..CONNECTIONS_PER_SOURCE {
                held.push(silent().await);
            }
            // Reset or at its end, and not because its handshake took too long.
            let read = timeout(SOON, silent().await.read(&mut [0])).await.expect("it is closed");
            assert_eq!(read.unwrap_or_default(), 0);
            let local = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            dial(local, "a", Service::Join, &identity).await.unwrap();
            stop.cancel();
        };
        tokio::join!(this.serve(Entrance::Others, listener, stop.clone()), calls);
    }
}
