//! Joining a cluster: a host of it makes an invitation, which is used once, within a day; who shows it gets the CA, the
//! cluster key and the other hosts' addresses over a connection whose other end has that CA.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    routing::{get, post},
};
use bytes::Bytes;
use daemon::{ApiError, Body};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use keyspace::{Keyspace, Transaction};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::info;
use tunnel::{TunnelError, dial_unknown};

use crate::{
    config::Join,
    dial_back::{Door, knock},
    disk::{self, Durable},
    domain::net::Cidr,
    etcd::Role,
    grid::{Grid, HOSTS, Record},
    identity::{self, Folders, HostFile, IdentityError},
    leaving::{self, REMOVED, Standing},
    tunnel::Tunnel,
};

/// Below it: a key an invitation, named by the SHA-256 of its secret.
const INVITES: &str = "/flynn/invites/";
/// How long an invitation can be used.
const VALID: Duration = Duration::from_secs(24 * 3600);
/// Longest time the other host may take.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest word of a machine that joins.
const WORD_MAX: usize = 64;
/// Largest answer: 5,000 hosts are about 1 MB.
const ANSWER_SIZE: usize = 16 << 20;

/// What `flynn-host join` is given: `10.0.0.1:1114/<fingerprint of the CA>/<secret>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    addr: SocketAddr,
    fingerprint: String,
    secret: String,
}

/// The text is no invitation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no invitation: copy the whole word that `flynn-host invite` printed after `join`")]
pub struct InvalidInvitation;

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.addr, self.fingerprint, self.secret)
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invitation({})", self.addr)
    }
}

impl FromStr for Invitation {
    type Err = InvalidInvitation;

    fn from_str(text: &str) -> Result<Self, InvalidInvitation> {
        let mut parts = text.trim().split('/');
        let hex = |part: Option<&str>, length: usize| {
            part.filter(|p| p.len() == length && p.bytes().all(|b| b.is_ascii_hexdigit()))
                .map(str::to_owned)
        };
        let mut parse = || {
            let addr = parts.next()?.parse().ok()?;
            let invitation =
                Self { addr, fingerprint: hex(parts.next(), 64)?, secret: hex(parts.next(), 32)? };
            parts.next().is_none().then_some(invitation)
        };
        parse().ok_or(InvalidInvitation)
    }
}

/// What is kept of an invitation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kept {
    digest: String,
    expires_at: Timestamp,
}

/// A new invitation, and what is kept of it.
pub(crate) fn invite(addr: SocketAddr, fingerprint: String) -> (Invitation, Kept) {
    let secret = hex::encode(rand::random::<[u8; 16]>());
    let expires_at = Timestamp::now().saturating_add(VALID).unwrap_or(Timestamp::MAX);
    let kept = Kept { digest: digest(&secret), expires_at };
    (Invitation { addr, fingerprint, secret }, kept)
}

fn digest(secret: &str) -> String {
    hex::encode(Sha256::digest(secret))
}

/// Keeps an invitation in etcd, and forgets those whose time is over.
pub(crate) async fn keep(etcd: &Keyspace, kept: &Kept) -> Result<(), keyspace::Error> {
    for entry in etcd.list(INVITES).await?.entries {
        let known: Option<Kept> = serde_json::from_slice(&entry.value).ok();
        if known.is_none_or(|known| known.expires_at < Timestamp::now()) {
            etcd.commit(Transaction::new().delete(entry.key)).await?;
        }
    }
    let value = serde_json::to_vec(kept).expect("an invitation serialises");
    etcd.commit(Transaction::new().put(format!("{INVITES}{}", kept.digest), value)).await?;
    Ok(())
}

/// Who wants to join.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    id: String,
    addr: Ipv4Addr,
    tunnel_port: u16,
    /// What it says to whoever comes to that address and port. Machines before this one did not wait there.
    #[serde(default)]
    word: Option<String>,
}

/// What a host has to know.
#[derive(Serialize, Deserialize)]
struct Answer {
    range: Cidr,
    cluster_key: String,
    ca: String,
    ca_key: String,
    grid: Grid,
}

/// Serves who joins.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) folders: Folders,
    pub(crate) range: Cidr,
    pub(crate) etcd: Keyspace,
}

/// The paths that who joins can reach.
pub(crate) fn router(host: Host) -> Router {
    Router::new()
        .route("/cluster/join", post(join))
        .route("/cluster/removed/{id}", get(removed))
        .with_state(host)
}

/// When who asks had joined, if it knows.
#[derive(Debug, Serialize, Deserialize)]
struct Joined {
    joined_at: Option<Timestamp>,
}

/// Whether a host was removed, for one that nobody lets in any more.
async fn removed(
    State(host): State<Host>,
    Path(id): Path<String>,
    Query(Joined { joined_at }): Query<Joined>,
) -> Result<Json<Standing>, ApiError> {
    let found = leaving::standing(&host.etcd, &id, joined_at).await;
    found.map(Json).map_err(|err| ApiError::unavailable(format!("etcd is away: {err}")))
}

/// Asks another host, through the tunnel, whether this one was removed.
pub(crate) async fn was_removed(
    tunnel: &Tunnel,
    other: (&str, SocketAddr),
    joined_at: Option<Timestamp>,
) -> Result<bool, JoinError> {
    let lost = |err: &dyn fmt::Display| JoinError::Lost(err.to_string());
    let since = joined_at.map(|at| format!("?joined_at={at}")).unwrap_or_default();
    let request = http::Request::get(format!("/cluster/removed/{}{since}", tunnel.id))
        .header(http::header::HOST, other.1.to_string())
        .body(Full::default())
        .map_err(|err| lost(&err))?;
    let (status, body) = tunnel.ask(other.0, other.1, request).await?;
    if !status.is_success() {
        return Err(JoinError::Refused(format!("it answered {status}")));
    }
    let standing: Standing = serde_json::from_slice(&body).map_err(|err| lost(&err))?;
    Ok(standing.removed)
}

async fn join(
    State(host): State<Host>,
    headers: HeaderMap,
    Body(request): Body<Request>,
) -> Result<Json<Answer>, ApiError> {
    let unknown = || {
        let message = "this invitation is not known: it was used, or its day is over, or the cluster was made anew. \
                       Make another with `flynn-host invite` on a host of the cluster";
        ApiError::new(api::error::ErrorCode::Unauthorized, message)
    };
    let away = |err: keyspace::Error| {
        ApiError::unavailable(format!("nobody can join while etcd is away: {err}"))
    };
    let secret = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let secret = secret.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(unknown)?;
    identity::check_id(&request.id).map_err(|err| ApiError::invalid("id", err))?;
    let invite = format!("{INVITES}{}", digest(secret));
    let found = host.etcd.get(&invite).await.map_err(away)?.ok_or_else(unknown)?;
    let kept: Kept = serde_json::from_slice(&found.value).map_err(|_| unknown())?;
    if kept.expires_at < Timestamp::now() {
        return Err(unknown());
    }
    let listed = host.etcd.list(HOSTS).await.map_err(away)?;
    let mut grid = Grid { hosts: Default::default(), members: host.members().await.map_err(away)? };
    // 0: there is no such host.
    let mut known_at = 0;
    for entry in listed.entries {
        let id = entry.key.trim_start_matches(HOSTS).to_owned();
        if id == request.id {
            known_at = entry.mod_revision;
        }
        if let Ok(record) = serde_json::from_slice::<Record>(&entry.value) {
            grid.hosts.insert(id, record);
        }
    }
    refuse_a_second(&grid, &request)?;
    try_the_way_back(&request).await?;
    let Request { id, addr, tunnel_port, .. } = request;
    let record = Record { addr, tunnel_port, subnet: None, joined_at: Timestamp::now() };
    let key = format!("{HOSTS}{id}");
    let value = serde_json::to_vec(&record).expect("a record serialises");
    // Another machine may be joining under that id at the same time.
    let used = Transaction::new().when_unchanged(&key, known_at);
    // The invitation goes with the record's coming: it is used once, whatever happens in between.
    let used = used.when_present(&invite).delete(&invite).put(&key, value);
    // Another machine of that id was removed, perhaps; this one is not.
    let used = used.delete(format!("{REMOVED}{id}"));
    match host.etcd.commit(used).await {
        Err(err) if err.is_conflict() => {
            let is_good = host.etcd.get(&invite).await.map_err(away)?.is_some();
            return Err(if is_good { overtaken(&id) } else { unknown() });
        }
        done => _ = done.map_err(away)?,
    }
    info!("host {id} at {addr} joins");
    grid.hosts.insert(id, record);
    let read = |err: &(dyn std::error::Error + 'static)| {
        ApiError::internal("reading this host's keys", err)
    };
    let authority = identity::authority(&host.folders).map_err(|err| read(&err))?;
    Ok(Json(Answer {
        range: host.range,
        cluster_key: identity::cluster_key(&host.folders).map_err(|err| read(&err))?,
        ca: authority.cert().into(),
        ca_key: authority.key(),
        grid,
    }))
}

/// Refuses a machine whose id or place another has. One that has no subnet yet never came up: its machine is trying again.
fn refuse_a_second(grid: &Grid, request: &Request) -> Result<(), ApiError> {
    let same = |id: &str, record: &Record| {
        let place = record.addr == request.addr && record.tunnel_port == request.tunnel_port;
        record.subnet.is_some() && (id == request.id || place)
    };
    let Some((id, _)) = grid.hosts.iter().find(|(id, record)| same(id, record)) else {
        return Ok(());
    };
    let message = format!(
        "host {id} is in the cluster already, with that id or that address; give this one another with --id or \
         --addr, or remove the other first: flynn-host remove {id}"
    );
    Err(ApiError::new(api::error::ErrorCode::ObjectExists, message))
}

fn overtaken(id: &str) -> ApiError {
    let message = format!(
        "another machine has joined as host {id} at this very moment; give this one another id with --id: the          invitation is still good"
    );
    ApiError::new(api::error::ErrorCode::ObjectExists, message)
}

/// Refuses a machine that this host cannot reach.
async fn try_the_way_back(request: &Request) -> Result<(), ApiError> {
    let Request { addr, tunnel_port, word, .. } = request;
    let Some(word) = word.as_deref().filter(|word| word.len() <= WORD_MAX) else { return Ok(()) };
    knock((*addr, *tunnel_port).into(), word).await.map_err(|err| {
        let message = format!(
            "the cluster's hosts cannot reach this machine at {addr}:{tunnel_port}: {err}. Let them connect to that port, \
             or give the address at which they reach it with --addr; the invitation is still good"
        );
        ApiError::new(api::error::ErrorCode::PreconditionFailed, message)
    })
}

impl Host {
    async fn members(&self) -> Result<Vec<crate::grid::Member>, keyspace::Error> {
        let entry = self.etcd.get(crate::grid::MEMBERS).await?;
        Ok(entry.and_then(|e| serde_json::from_slice(&e.value).ok()).unwrap_or_default())
    }
}

/// This machine could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It is a host already.
    #[error("this machine is host {id} of a cluster already; to make it one of another, remove {} first", data.display())]
    IsHost {
        /// Its id.
        id: String,
        /// Its data.
        data: std::path::PathBuf,
    },
    /// The other host cannot be reached or is not of that cluster.
    #[error(
        "the host that made the invitation does not answer as one of its cluster; is its daemon up, and may this \
             machine reach that address and port?"
    )]
    Tunnel(#[from] TunnelError),
    /// The other host did not answer.
    #[error("the host that made the invitation broke off: {0}")]
    Lost(String),
    /// The tunnel of this machine will not be able to either.
    #[error(
        "this machine cannot listen at {addr}, where the other hosts would find it; see --addr and --tunnel-port"
    )]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// This machine's own files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The files.
    #[error("what the cluster said could not be kept")]
    Io(#[from] io::Error),
}

/// Makes this machine a host of the cluster of an invitation. Answers its id.
pub async fn join_cluster(options: &Join) -> Result<String, JoinError> {
    let folders = Folders::new(&options.dir.data_dir);
    if let Ok(known) = identity::read(&folders) {
        return Err(JoinError::IsHost { id: known.id, data: folders.root().into() });
    }
    let id = identity::chosen_id(options.id.as_deref())?;
    let addr = match options.addr {
        Some(addr) => addr,
        None => identity::own_address(Some(options.invitation.addr))?,
    };
    // What would keep it from being a host is said before the invitation is used up.
    identity::prepare(&folders)?;
    let tunnel = SocketAddr::from((addr, options.tunnel_port));
    let door = Door::open(tunnel).await;
    let door = door.map_err(|source| JoinError::Listen { addr: tunnel, source })?;
    let word = Some(door.word().to_owned());
    let request = Request { id: id.clone(), addr, tunnel_port: options.tunnel_port, word };
    let answer = tokio::select! {
        answer = ask(&options.invitation, &request) => answer?,
        never = door.answer() => match never {},
    };
    drop(door);
    identity::check_routes(answer.range, &options.bridge)?;
    let authority = tunnel::Authority::read(&answer.ca, &answer.ca_key)
        .map_err(|err| JoinError::Lost(err.to_string()))?;
    identity::keep_authority(&folders, &authority)?;
    let joined_at = answer.grid.hosts.get(&id).map(|record| record.joined_at);
    disk::write(&folders.key_file(), answer.cluster_key.as_bytes(), Durable::Synced)?;
    disk::write_json(&folders.grid_file(), &answer.grid, Durable::Synced)?;
    Role::Client.write(&folders)?;
    // Last: with it the machine is a host.
    let host = HostFile {
        id: id.clone(),
        range: answer.range,
        subnet: None,
        tags: Default::default(),
        addr: options.addr,
        joined_at,
    };
    identity::write(&folders, &host)?;
    Ok(id)
}

async fn ask(invitation: &Invitation, request: &Request) -> Result<Answer, JoinError> {
    let stream = dial_unknown(invitation.addr, &invitation.fingerprint).await?;
    let body = serde_json::to_vec(request).expect("a request serialises");
    let request = http::Request::post("/cluster/join")
        .header(http::header::HOST, invitation.addr.to_string())
        .header(http::header::AUTHORIZATION, format!("Bearer {}", invitation.secret))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|err| JoinError::Lost(err.to_string()))?;
    let (status, body) = exchange(stream, request).await?;
    if !status.is_success() {
        let error: Option<api::error::ErrorBody> = serde_json::from_slice(&body).ok();
        let said = error.map_or_else(|| format!("it answered {status}"), |error| error.message);
        return Err(JoinError::Refused(said));
    }
    serde_json::from_slice(&body).map_err(|err| JoinError::Lost(err.to_string()))
}

/// Sends one request over a connection to a host, and reads the answer.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: http::Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), JoinError> {
    let lost = |err: &dyn fmt::Display| JoinError::Lost(err.to_string());
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|err| lost(&err))?;
        let asked = async {
            let answer = sender.send_request(request).await.map_err(|err| lost(&err))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_SIZE).collect().await;
            Ok((status, body.map_err(|err| lost(&err))?.to_bytes()))
        };
        tokio::select! {
            answer = asked => answer,
            ended = connection => Err(lost(&match ended {
                Ok(()) => "the connection was closed".to_owned(),
                Err(err) => err.to_string(),
            })),
        }
    };
    tokio::time::timeout(ANSWER, exchange)
        .await
        .map_err(|_| JoinError::Lost(format!("no answer within {ANSWER:?}")))?
}

#[cfg(test)]
mod tests;
