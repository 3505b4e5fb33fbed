//! After the quorum of etcd was lost for good: the member of one host goes on alone, and every host that answers follows it.

use std::{collections::BTreeSet, error::Error, fs, io, time::Duration};

use api::{error::ErrorCode, host::Recovered};
use daemon::{ApiError, WorkPanicked};
use futures_util::future::join_all;
use keyspace::{Keyspace, Transaction};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    disk::{self, Durable},
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

/// How often what is not finished is tried again.
const RETRY: Duration = Duration::from_secs(5);

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
    #[error("etcd does not serve yet: {0}; this host goes on trying")]
    Etcd(String),
    /// A bug of ours.
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
}

impl From<RecoveryError> for ApiError {
    fn from(err: RecoveryError) -> Self {
        match err {
            RecoveryError::Refused(message) => Self::new(ErrorCode::Conflict, message),
            err => Self::internal(&err.to_string(), &err),
        }
    }
}

/// `host/recovery.json`: a recovery that is not finished. It is the daemon's, whatever becomes of who ordered it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stage")]
enum Pending {
    /// It was ordered; etcd does not serve alone yet.
    Forcing,
    /// etcd served alone; the epoch is not raised yet.
    Noting,
    /// Hosts have not been told yet.
    Telling {
        /// Their ids.
        untold: BTreeSet<String>,
    },
}

/// What a recovery does next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Start etcd alone.
    Force,
    /// Wait until it serves alone.
    Serve,
    /// Start it as any other from now on: started alone again, it would force out whoever has joined meanwhile.
    Unforce,
    /// Raise the epoch, and say who the members are.
    Note,
    /// Tell hosts.
    Tell(BTreeSet<String>),
    /// It never began, and nothing was lost by it.
    GiveUp,
}

/// `ordered`: somebody orders it now, and it does not go on from where the daemon was interrupted.
fn next_step(pending: &Pending, is_forced: bool, ordered: bool) -> Step {
    match (pending, is_forced) {
        (Pending::Forcing, false) if ordered => Step::Force,
        (Pending::Forcing, false) => Step::GiveUp,
        (Pending::Forcing, true) => Step::Serve,
        (Pending::Noting, true) => Step::Unforce,
        (Pending::Noting, false) => Step::Note,
        (Pending::Telling { untold }, _) => Step::Tell(untold.clone()),
    }
}

/// Makes this host's member go on alone, with what it knows. Answers who could not be told yet.
pub(crate) async fn recover(app: &App) -> Result<Recovered, RecoveryError> {
    let refused = |message: &str| Err(RecoveryError::Refused(message.into()));
    let Some(neighbours) = app.neighbours.clone() else {
        return refused("this host is alone: its etcd has no quorum to lose");
    };
    let role = neighbours.role.borrow().clone();
    let Role::Member { forced, .. } = role else {
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
    let this = app.clone();
    let work = async move {
        let _once = neighbours.recovering.lock().await;
        keep(&neighbours, &Pending::Forcing)?;
        go_on(&this, &neighbours, true).await
    };
    app.host.lifetime.carry_out(work).await?
}

/// Finishes what an earlier daemon or an earlier order left, as long as the daemon runs.
pub(crate) async fn finish(app: App, stop: CancellationToken) {
    let Some(neighbours) = app.neighbours.clone() else { return };
    let mut tick = interval(RETRY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let Ok(_once) = neighbours.recovering.try_lock() else { continue };
        match pending(&neighbours) {
            Ok(None) => continue,
            Ok(Some(_)) => {}
            Err(err) => {
                warn!(error = &err as &dyn Error, "whether etcd is to be recovered is not known");
                continue;
            }
        }
        let finished = tokio::select! {
            () = stop.cancelled() => return,
            finished = go_on(&app, &neighbours, false) => finished,
        };
        match finished {
            Ok(Recovered { untold }) if untold.is_empty() => info!("etcd is recovered"),
            Ok(Recovered { untold }) => {
                debug!("not told of the recovery of etcd yet: {}", untold.join(", "));
            }
            Err(err) => {
                warn!(error = &err as &dyn Error, "etcd is not recovered yet; trying again");
            }
        }
    }
}

fn pending(neighbours: &Neighbours) -> io::Result<Option<Pending>> {
    let pending = disk::read_json(&neighbours.folders.recovery_file())?;
    // An older daemon kept no file.
    let forced = matches!(*neighbours.role.borrow(), Role::Member { forced: true, .. });
    Ok(pending.or_else(|| forced.then_some(Pending::Forcing)))
}

fn keep(neighbours: &Neighbours, pending: &Pending) -> io::Result<()> {
    let path = neighbours.folders.recovery_file();
    match pending {
        Pending::Telling { untold } if untold.is_empty() => fs::remove_file(path),
        _ => disk::write_json(&path, pending, Durable::Synced),
    }
}

/// Goes on until the hosts that answer are told.
async fn go_on(
    app: &App,
    neighbours: &Neighbours,
    mut ordered: bool,
) -> Result<Recovered, RecoveryError> {
    loop {
        let role = neighbours.role.borrow().clone();
        let is_forced = matches!(role, Role::Member { forced: true, .. });
        let Some(pending) = pending(neighbours)? else {
            return Ok(Recovered { untold: Vec::new() });
        };
        let as_forced = |forced| match role.clone() {
            Role::Member { cluster, joined, .. } => Role::Member { cluster, joined, forced },
            other => other,
        };
        match next_step(&pending, is_forced, std::mem::take(&mut ordered)) {
            Step::Force => make_anew(app, neighbours, as_forced(true)).await?,
            Step::Serve => {
                until_it_serves(app).await?;
                keep(neighbours, &Pending::Noting)?;
            }
            Step::Unforce => make_anew(app, neighbours, as_forced(false)).await?,
            Step::GiveUp => fs::remove_file(neighbours.folders.recovery_file())?,
            Step::Note => {
                let own = Member {
                    host: neighbours.id.clone(),
                    peer_url: peer_url(neighbours.addr, neighbours.peer_port),
                    learner: false,
                };
                until_it_serves(app).await?;
                let noted = note(&app.etcd, &own).await;
                noted.map_err(|err| RecoveryError::Etcd(err.to_string()))?;
                neighbours.grid.follow(&own);
                let hosts = neighbours.grid.now().hosts.keys().cloned().collect();
                keep(neighbours, &Pending::Telling { untold: hosts })?;
            }
            Step::Tell(untold) => {
                let untold = tell_others(app, neighbours, &untold).await;
                keep(neighbours, &Pending::Telling { untold: untold.iter().cloned().collect() })?;
                return Ok(Recovered { untold });
            }
        }
    }
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
    until_it_serves(app).await
}

async fn until_it_serves(app: &App) -> Result<(), RecoveryError> {
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
async fn tell_others(app: &App, neighbours: &Neighbours, untold: &BTreeSet<String>) -> Vec<String> {
    let others: Vec<_> = {
        let grid = neighbours.grid.now();
        let others =
            grid.hosts.iter().filter(|(id, _)| **id != neighbours.id && untold.contains(*id));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_forces_once_and_goes_on_from_where_it_was_interrupted() {
        use Pending::{Forcing, Noting};
        assert_eq!(next_step(&Forcing, false, true), Step::Force);
        assert_eq!(next_step(&Forcing, true, true), Step::Serve, "it is forced already");
        assert_eq!(next_step(&Forcing, true, false), Step::Serve);
        assert_eq!(next_step(&Noting, true, false), Step::Unforce);
        assert_eq!(next_step(&Noting, false, false), Step::Note);
        let untold = BTreeSet::from(["b".to_owned()]);
        let telling = Pending::Telling { untold: untold.clone() };
        assert_eq!(next_step(&telling, false, false), Step::Tell(untold));
    }

    #[test]
    fn an_order_that_never_reached_etcd_says_nothing_of_its_members() {
        assert_eq!(next_step(&Pending::Forcing, false, false), Step::GiveUp);
    }
}
