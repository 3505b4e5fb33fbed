//! Where the parts are joined.

use std::{
    borrow::Cow, collections::BTreeMap, future::pending, io, net::SocketAddr, path::PathBuf,
    sync::Arc, time::Duration,
};

use api_client::{Client, Endpoint};
use controller_client::Controller;
use daemon::Lifetime;
use discoverd_client::Discoverd;
use russh::{
    MethodKind, MethodSet, Preferred, SshId, cipher, kex,
    keys::{Algorithm, EcdsaCurve, HashAlg},
    mac,
};
use shelf_client::Shelf;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    Config,
    alone::{self, Alone},
    config::ClusterConfig,
    disk::{self, Disk},
    door::{Door, Place},
    git::{Git, can_be_quarantined},
    hosting::Hosting,
    keyring::Keyring,
    push::Pushes,
    ready,
    repos::{Repos, Uses},
    run_dir::RunDir,
    slots::Slots,
    ssh::{Connection, Progress, Shared},
};

/// Connections at once; more are closed at once. Those that have not said who they are have a bound of their own.
const CONNECTIONS_MAX: usize = 1000;
/// Clients that wait to be accepted.
const BACKLOG: u32 = 1024;
/// A client has this long to say anything that SSH knows.
const SPEAK_TIMEOUT: Duration = Duration::from_secs(10);
/// A client has this long to say what it wants; a person may have to type a passphrase or touch a key.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);
/// One that keeps its connection when its push has ended has this long for the next.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Whether one has a push under way is looked at this often.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);
/// A client that is silent this long is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// It is taken for gone after so many questions.
const KEEP_ALIVE_MAX: usize = 3;
/// And a connection on which nothing at all happens, its handshake included, ends.
const SILENCE: Duration = Duration::from_secs(120);
/// Refusing a key takes this long, so that keys cannot be tried by the thousand.
const REJECTION_TIME: Duration = Duration::from_millis(200);
/// Keys a client may offer: agents hold many, and the right one may be the last.
const AUTH_ATTEMPTS_MAX: usize = 40;
/// A client whose last push has ended while the server stops hears the end of it for this time.
const PARTING_DELAY: Duration = Duration::from_secs(3);
/// Longest wait for one answer of the controller.
const CONTROLLER_TIMEOUT: Duration = Duration::from_secs(10);

/// A gitreceived that serves.
#[derive(Debug)]
pub struct Running {
    /// Where.
    pub addr: SocketAddr,
    /// Is cancelled when pushes under way have to end.
    over: CancellationToken,
}

impl Running {
    /// Tells pushes under way to come back, and ends them.
    pub fn end_pushes(&self) {
        self.over.cancel();
    }
}

/// Why gitreceived could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be had.
    #[error("listening on {addr} failed: is something else using it?")]
    Bind {
        /// Which.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another gitreceived uses the folder.
    #[error("another gitreceived uses the folder {}: end it first, or give this one another", dir.display())]
    Used {
        /// The folder.
        dir: PathBuf,
    },
    /// git cannot take pushes there.
    #[error(
        "git cannot take pushes in the folder {}: its path has a colon, a double quote, a line end or no UTF-8 in it; choose another \
         (-r)",
        dir.display()
    )]
    Unfit {
        /// The folder.
        dir: PathBuf,
    },
    /// The cache or the directory of the hook cannot be made.
    #[error("{} cannot be made or written to", dir.display())]
    Dir {
        /// Which.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Starts gitreceived; it ends with `lifetime`.
pub async fn start(config: Config, lifetime: &Lifetime) -> Result<Running, StartError> {
    let unbound = |source| StartError::Bind { addr: config.listen, source };
    let socket = bind(config.listen).map_err(unbound)?;
    let addr = socket.local_addr().map_err(unbound)?;
    let ssh = Arc::new(ssh_config(&config));
    let shared = Arc::new(shared(config, lifetime).await?);
    let over = shared.over.clone();
    lifetime.spawn("accept", |stop| async move {
        if let Hosting::Cluster { controller, shelf, .. } = &shared.pushes.hosting {
            let answered = ready::until_answered(controller, shelf);
            if stop.run_until_cancelled(answered).await.is_none() {
                return;
            }
        }
        match socket.listen(BACKLOG) {
            Ok(listener) => accept(listener, ssh, shared, stop).await,
            Err(err) => {
                error!(error = %err, "listening on {addr} failed: is something else using it?");
                shared.lifetime.end();
            }
        }
    });
    Ok(Running { addr, over })
}

/// The address is ours from here on, and nobody is let in yet.
fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

async fn shared(config: Config, lifetime: &Lifetime) -> Result<Shared, StartError> {
    let Config { authchecker, receiver, hook, cache_dir, path, .. } = config;
    let unusable = |source| StartError::Dir { dir: cache_dir.clone(), source };
    std::fs::create_dir_all(&cache_dir).map_err(unusable)?;
    let cache_dir = cache_dir.canonicalize().map_err(unusable)?;
    if !can_be_quarantined(&cache_dir) {
        return Err(StartError::Unfit { dir: cache_dir });
    }
    let (git, uses) = (Git::new(&path, &cache_dir), Uses::default());
    let (hosting, disk, keyring);
    match &config.cluster {
        Some(cluster) => {
            let (controller, shelf) = neighbours(cluster);
            keyring = Keyring::by_controller(controller.clone());
            let repos = Repos::new(cache_dir.clone(), git.clone(), shelf.clone(), uses.clone());
            hosting = Hosting::Cluster { controller, shelf, repos };
            disk::remove_gone(&cache_dir).map_err(unusable)?;
            disk = Some(Disk::new(cache_dir, config.disk_len_max, uses));
        }
        None => {
            keyring = Keyring::by_command(Vec::new(), BTreeMap::new());
            let lock = alone::lock(&cache_dir).await.map_err(unusable)?;
            let lock = lock.ok_or_else(|| StartError::Used { dir: cache_dir.clone() })?;
            hosting = Hosting::Alone(Alone::new(cache_dir, git.clone(), uses, lock));
            disk = None;
        }
    }
    let keyring = match authchecker.is_empty() {
        true => keyring,
        false => Keyring::by_command(authchecker, config.receiver_env.clone()),
    };
    let temp = std::env::temp_dir();
    let run_dir = RunDir::new(&hook, &temp);
    let pushes = Pushes {
        hosting,
        git,
        disk,
        run_dir: run_dir.map_err(|source| StartError::Dir { dir: temp, source })?,
        hook,
        receiver,
        receiver_env: config.receiver_env,
        timeout: config.push_timeout,
        idle_timeout: config.push_idle_timeout,
    };
    let (pushes, over) = (Arc::new(pushes), CancellationToken::new());
    let (slots, connections) = (Slots::for_pushes(), Slots::for_connections());
    Ok(Shared { keyring, pushes, slots, connections, lifetime: lifetime.clone(), over })
}

fn neighbours(config: &ClusterConfig) -> (Controller, Shelf) {
    let discoverd = Discoverd::new(&config.discoverd, None);
    let find = |url: &Option<String>, service: &str| match url {
        Some(url) => Endpoint::from(url.as_str()),
        None => discoverd.watch(service).endpoint(),
    };
    let controller = Client::new(
        find(&config.controller_url, "controller"),
        Some(config.controller_key.clone()),
    );
    let controller = Controller::with_client(controller.with_timeout(CONTROLLER_TIMEOUT));
    (controller, Shelf::new(find(&config.shelf_url, "shelf"), config.shelf_key.clone()))
}

fn ssh_config(config: &Config) -> russh::server::Config {
    let ecdsa = |curve| Algorithm::Ecdsa { curve };
    let rsa = |hash| Algorithm::Rsa { hash: Some(hash) };
    russh::server::Config {
        server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-gitreceived")),
        methods: MethodSet::from(
            [MethodKind::PublicKey, MethodKind::KeyboardInteractive].as_slice(),
        ),
        auth_rejection_time: REJECTION_TIME,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: config.host_keys.clone(),
        max_auth_attempts: AUTH_ATTEMPTS_MAX,
        preferred: Preferred {
            // Elliptic curves, and the hybrid that a quantum computer would not break; every client since 2014 has one.
            kex: Cow::Borrowed(&[
                kex::MLKEM768X25519_SHA256,
                kex::CURVE25519,
                kex::CURVE25519_PRE_RFC_8731,
                kex::EXTENSION_SUPPORT_AS_SERVER,
                kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
            ]),
            key: Cow::Owned(vec![
                Algorithm::Ed25519,
                rsa(HashAlg::Sha512),
                rsa(HashAlg::Sha256),
                ecdsa(EcdsaCurve::NistP256),
                ecdsa(EcdsaCurve::NistP384),
                ecdsa(EcdsaCurve::NistP521),
            ]),
            cipher: Cow::Borrowed(&[
                cipher::AES_128_GCM,
                cipher::AES_256_GCM,
                cipher::CHACHA20_POLY1305,
                cipher::AES_256_CTR,
                cipher::AES_128_CTR,
            ]),
            mac: Cow::Borrowed(&[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM]),
            ..Preferred::default()
        },
        inactivity_timeout: Some(SILENCE),
        keepalive_interval: Some(KEEP_ALIVE),
        keepalive_max: KEEP_ALIVE_MAX,
        nodelay: true,
        ..Default::default()
    }
}

async fn accept(
    listener: TcpListener,
    ssh: Arc<russh::server::Config>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let (room, door) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Door::default());
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                let Ok(place) = room.clone().try_acquire_owned() else {
                    warn!(%peer, "{CONNECTIONS_MAX} connections are open; one more was closed");
                    continue;
                };
                let (ssh, shared, stop) = (ssh.clone(), shared.clone(), stop.clone());
                let stranger = door.enter(peer.ip());
                shared.lifetime.clone().spawn_drained(async move {
                    if let Err(err) = connection(stream, ssh, shared, stranger, stop).await {
                        debug!(%peer, error = %err, "a connection ended early");
                    }
                    drop(place);
                });
            }
            // Out of file descriptors, mostly: connections that end make room.
            Err(err) => {
                warn!(error = %err, "a connection could not be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one connection until it ends. Cutting the socket is what ends it in every state of the protocol.
async fn connection(
    stream: TcpStream,
    ssh: Arc<russh::server::Config>,
    shared: Arc<Shared>,
    stranger: Place,
    stop: CancellationToken,
) -> Result<(), russh::Error> {
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let cut = stream.try_clone()?;
    let cut = || cut.shutdown(std::net::Shutdown::Both);
    let (progress, needed) = (Progress::default(), stranger.cut.clone());
    let handler = Connection::new(shared.clone(), progress.clone(), stranger);
    let serving = async {
        russh::server::run_stream(ssh, TcpStream::from_std(stream)?, handler).await?.await
    };
    tokio::pin!(serving);
    let too_long = async {
        tokio::select! {
            () = sleep(ASK_TIMEOUT) => {}
            () = stop.cancelled() => {}
            () = needed.cancelled() => {}
            () = progress.asked.cancelled() => {}
            () = async { sleep(SPEAK_TIMEOUT).await; if progress.spoke.is_cancelled() { pending().await } } => {}
        }
        // Who has asked for something is served to the end: a push has limits of its own. One that keeps its connection for
        // the next one has that made elsewhere.
        if progress.asked.is_cancelled() {
            if stop.run_until_cancelled(until_idle(&progress)).await.is_some() {
                return;
            }
            progress.pushes.close();
            progress.pushes.wait().await;
            sleep(PARTING_DELAY).await;
        }
    };
    tokio::select! {
        served = &mut serving => served,
        () = too_long => {
            cut()?;
            serving.await
        }
    }
}

/// Waits until a client has had no push under way for a while.
async fn until_idle(progress: &Progress) {
    let mut since = Instant::now();
    while since.elapsed() < IDLE_TIMEOUT {
        sleep(IDLE_INTERVAL).await;
        if !progress.pushes.is_empty() {
            since = Instant::now();
        }
    }
}
