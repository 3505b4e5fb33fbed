//! After the quorum of etcd was lost for good: the member of one host goes on alone, and every host that answers follows it.

use std::{error::Error, io, time::Duration};

use api::{error::ErrorCode, host::Recovered};
use daemon::ApiError;
use futures_util::future::join_all;
use keyspace::{Keyspace, Transaction};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::{
    etcd::{Role, peer_url},
    grid::{MEMBERS, Member},
    neighbours::Neighbours,
    routes::App,
    server::ETCD,
};

/// The cluster's epoch, as discoverd reads it: with a higher one every leader's term is higher than any before.
const EPOCH: &str = "/discoverd/epoch";
/// An etcd that does not answer within it has no quorum.
const ANSWER: Duration = Duration::from_secs(5);
/// How long etcd may take to start.
const START: Duration = Duration::from_secs(60);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// etcd was not recovered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoveryError {
    /// There is nothing to recover.
    #[error("{0}")]
    Refused(String),
    /// A file.
    #[error("this host's part in etcd could not be noted: {0}")]
    Io(#[from] io::Error),
    /// The engine.
    #[error("etcd's container could not be made anew: {0}")]
    Engine(#[from] crate::backend::engine::EngineError),
    /// etcd.
    #[error("etcd does not serve: {0}; run this again")]
    Etcd(String),
}

impl From<RecoveryError> for ApiError {
    fn from(err: RecoveryError) -> Self {
        match err {
            RecoveryError::Refused(message) => Self::new(ErrorCode::Conflict, message),
            err => Self::internal(&err.to_string(), &err),
        }
    }
}

/// Makes this host's member go on alone, with what it knows. Answers who could not be told.
pub(crate) async fn recover(app: &App) -> Result<Recovered, RecoveryError> {
    let refused = |message: &str| Err(RecoveryError::Refused(message.into()));
    let Some(neighbours) = &app.neighbours else {
        return refused("this host is alone: its etcd has no quorum to lose");
    };
    let Role::Member { cluster, joined, forced } = neighbours.role.borrow().clone() else {
        let members: Vec<_> =
            neighbours.grid.now().members.iter().map(|m| m.host.clone()).collect();
        return refused(&format!(
            "this host has no member of etcd; run this on the one of {} that is left",
            members.join(", ")
        ));
    };
    // One that was forced before the daemon died goes on from there.
    if !forced && timeout(ANSWER, app.etcd.get(MEMBERS)).await.is_ok_and(|answer| answer.is_ok()) {
        return refused(
            "etcd has its quorum, so nothing is lost; replace a member with flynn-host remove",
        );
    }
    warn!("etcd's member on this host goes on alone, as it was ordered to");
    let forced = Role::Member { cluster: cluster.clone(), joined, forced: true };
    make_anew(app, neighbours, forced).await?;
    let own = Member {
        host: neighbours.id.clone(),
        peer_url: peer_url(neighbours.addr, neighbours.peer_port),
        learner: false,
    };
    note(&app.etcd, &own).await.map_err(|err| RecoveryError::Etcd(err.to_string()))?;
    // Started so again, it would force out whoever has joined meanwhile.
    make_anew(app, neighbours, Role::Member { cluster, joined, forced: false }).await?;
    neighbours.grid.follow(&own);
    Ok(Recovered { untold: tell_others(app, neighbours).await })
}

/// Starts etcd with another role, and waits until it serves.
async fn make_anew(app: &App, neighbours: &Neighbours, role: Role) -> Result<(), RecoveryError> {
    role.write(&neighbours.folders)?;
    neighbours.role.send_replace(role);
    // Whoever keeps layer 0 makes it of the new role.
    let container = format!("{}-{ETCD}", app.host.settings.prefix);
    if let Some(found) = app.host.engine.container(&container).await? {
        app.host.engine.remove(&found.id).await?;
    }
    let end = Instant::now() + START;
    loop {
        let said = match timeout(ANSWER, app.etcd.get(MEMBERS)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(err)) => err.to_string(),
            Err(_) => format!("no answer within {ANSWER:?}"),
        };
        if Instant::now() > end {
            return Err(RecoveryError::Etcd(said));
        }
        sleep(PAUSE).await;
    }
}

/// The revision may be lower than before: a higher epoch keeps every term higher.
async fn note(etcd: &Keyspace, own: &Member) -> Result<(), keyspace::Error> {
    let epoch = etcd.get(EPOCH).await?;
    let epoch: u64 = epoch.and_then(|e| serde_json::from_slice(&e.value).ok()).unwrap_or(0);
    let members = serde_json::to_vec(&[own]).expect("members serialise");
    let raised = Transaction::new().put(EPOCH, (epoch + 1).to_string()).put(MEMBERS, members);
    etcd.commit(raised).await?;
    info!(epoch = epoch + 1, "etcd serves again, with one member");
    Ok(())
}

/// Every host that answers gives up what its own etcd knew.
async fn tell_others(app: &App, neighbours: &Neighbours) -> Vec<String> {
    let others: Vec<_> = {
        let grid = neighbours.grid.now();
        let others = grid.hosts.iter().filter(|(id, _)| **id != neighbours.id);
        others.map(|(id, record)| (id.clone(), record.subnet)).collect()
    };
    let told = others.into_iter().map(|(id, subnet)| async move {
        let Some(subnet) = subnet else { return Some(id) };
        let host = app.leadership.host_at(subnet.gateway());
        match timeout(ANSWER, host.follow(&neighbours.id)).await {
            Ok(Ok(())) => None,
            Ok(Err(err)) => {
                warn!(host.id = id, error = &err as &dyn Error, "a host could not be told");
                Some(id)
            }
            Err(_) => Some(id),
        }
    });
    join_all(told).await.into_iter().flatten().collect()
}

/// Follows the etcd of a host that was recovered.
pub(crate) fn follow(app: &App, host: &str) -> Result<(), RecoveryError> {
    let Some(neighbours) = &app.neighbours else {
        return Err(RecoveryError::Refused("this host is alone".into()));
    };
    let Some(record) = neighbours.grid.now().hosts.get(host).cloned() else {
        return Err(RecoveryError::Refused(format!("this host knows no host {host}")));
    };
    warn!("etcd goes on with the member of {host} alone; this host follows it");
    let peer_url = peer_url(record.addr, neighbours.peer_port);
    neighbours.grid.follow(&Member { host: host.into(), peer_url, learner: false });
    Ok(())
}
