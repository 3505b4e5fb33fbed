//! How a router hands its listening sockets to the next one on its host, so that its own upgrade refuses no connection.
//!
//! A router listens on an abstract Unix socket (unix(7)) that is named after its ports. The next one, its successor,
//! connects to it and gets every listening socket as a descriptor; from then on the API is its own, so that its health is
//! asked of itself. As soon as it knows routes and backends it accepts clients, and tells its predecessor, which accepts
//! none from then on and ends when it is told to. Until then they share what waits in the queues of the sockets: none of it
//! is reset, as it would be by a listener that is closed.
//!
//! The predecessor keeps the sockets. If its successor ends without having handed them on, it serves again: at once if that
//! is told to stop, and when the connection between them breaks if it dies.
//!
//! While both are there the successor asks its predecessor, too, before it says that the router has seen a revision, or
//! that nothing is under way to a backend.
//!
//! Both check that the other one runs as the same user: any process in the network namespace could take the name.

mod predecessor;
mod successor;
mod wire;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub(crate) use predecessor::{Inheritance, Predecessor};
use serde::{Deserialize, Serialize};
pub(crate) use successor::{Control, keep_successors};
use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};
use tracing::info;

use crate::{live::Live, proxy::Listener};

/// Longest time to hand over the sockets, or to be told something that needs no wait.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// What a listening socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Door {
    /// Clients of HTTP.
    Http,
    /// Clients of HTTPS.
    Https,
    /// The API, on this address.
    Api(SocketAddr),
    /// The tcp route of this port.
    Tcp(u16),
}

/// The name at which the router with these ports hands over its sockets; `None` if a port is any that is free.
pub(crate) fn name(http_port: u16, https_port: u16) -> Option<PathBuf> {
    let chosen = http_port != 0 && https_port != 0;
    chosen.then(|| format!("\0flynn-strowger/{http_port}/{https_port}").into())
}

/// Whether the other side runs as the same user.
fn is_one_of_us(stream: &UnixStream) -> io::Result<bool> {
    Ok(stream.peer_cred()?.uid() == rustix::process::getuid().as_raw())
}

fn shown(name: &Path) -> String {
    name.to_string_lossy().replace('\0', "@")
}

/// Whose the clients are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody's, or the predecessor's: this router does not know yet what it serves.
    Starting,
    /// This router's.
    Open,
    /// The successor's.
    Shut,
}

/// The listening sockets of a router, and whether it accepts at them.
#[derive(Debug)]
pub(crate) struct Doors {
    live: Arc<Live>,
    bound: Mutex<BTreeMap<Door, Arc<TcpListener>>>,
    phase: watch::Sender<Phase>,
    api: watch::Sender<bool>,
}

/// Whether clients are accepted, as one who accepts them sees it.
#[derive(Debug)]
pub(crate) struct Entrance(watch::Receiver<Phase>);

impl Doors {
    /// None yet; the API's will be open, and the others when it is known what is served.
    pub(crate) fn new(live: Arc<Live>) -> Self {
        let (phase, api) = (watch::channel(Phase::Starting).0, watch::channel(true).0);
        Self { live, bound: Mutex::default(), phase, api }
    }

    fn bound(&self) -> MutexGuard<'_, BTreeMap<Door, Arc<TcpListener>>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more socket to hand over.
    pub(crate) fn add(&self, door: Door, listener: Arc<TcpListener>) {
        self.bound().insert(door, listener);
    }

    /// One is closed.
    pub(crate) fn remove(&self, door: Door) {
        self.bound().remove(&door);
    }

    fn all(&self) -> Vec<(Door, Arc<TcpListener>)> {
        self.bound().iter().map(|(door, listener)| (*door, listener.clone())).collect()
    }

    /// To accept clients by.
    pub(crate) fn entrance(&self) -> Entrance {
        Entrance(self.phase.subscribe())
    }

    /// Whether calls of the API are accepted.
    pub(crate) fn api_entrance(&self) -> watch::Receiver<bool> {
        self.api.subscribe()
    }

    /// Whether the clients are the successor's.
    pub(crate) fn are_shut(&self) -> bool {
        *self.phase.borrow() == Phase::Shut
    }

    async fn until(&self, wanted: Phase) {
        // Its sender is ours.
        let _ = self.phase.subscribe().wait_for(|phase| *phase == wanted).await;
    }

    /// The clients are this router's, for the first time or again.
    pub(crate) fn open(&self) {
        self.live.resume();
        self.api.send_replace(true);
        if self.phase.send_replace(Phase::Open) == Phase::Shut {
            info!("the next router is gone; clients are accepted again");
        }
    }

    /// The API is the successor's.
    fn lend_api(&self) {
        self.api.send_replace(false);
    }

    /// The clients are the successor's; those that are connected go when they are served.
    fn shut(&self) {
        if self.phase.send_replace(Phase::Shut) != Phase::Shut {
            self.live.stop();
            info!("the next router accepts the clients");
        }
    }

    /// There is somebody after the successor: this router will never accept again.
    fn close(&self) {
        self.bound().clear();
    }
}

impl Entrance {
    /// The next client, while clients are this router's.
    pub(crate) async fn accept(&mut self, listener: &Listener) -> (TcpStream, SocketAddr) {
        loop {
            // Its sender lives as long as the daemon.
            let _ = self.0.wait_for(|phase| *phase == Phase::Open).await;
            tokio::select! {
                _ = self.0.wait_for(|phase| *phase != Phase::Open) => {}
                accepted = listener.accept() => return accepted,
            }
        }
    }
}
