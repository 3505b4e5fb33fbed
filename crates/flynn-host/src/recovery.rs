//! After the quorum of etcd was lost for good: the member of one host goes on alone, and every host that answers follows it.

use std::{collections::BTreeSet, error::Error, fs, io, time::Duration};

use api::{error::ErrorCode, host::Recovered};
use daemon::{ApiError, WorkPanicked};
use futures_util::future::join_all;
use keyspace::Keyspace;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    disk::{self, Durable},
    etcd::{self, Role, members_told, peer_url, unless_told_since},
    etcd_restore::{Restoration, RestoreError},
    grid::{MEMBERS, Member},
    identity::Folders,
    neighbours::Neighbours,
    routes::App,
    server::ETCD,
};

mod told;

pub(crate) use self::told::follow;

/// The cluster's epoch, as discoverd reads it: with a higher one every leader's term is higher than any before.
const EPOCH: &str = "/discoverd/epoch";
/// An etcd that does not answer within it has no quorum.
const ANSWER: Duration = Duration::from_secs(5);
/// A host asks etcd before it follows, and may have to find out that it does not answer.
const TELLING_TIMEOUT: Duration = Duration::from_secs(10);
/// The list of members is read again when it has changed meanwhile, at most this many times.
const NOTE_ATTEMPTS: u32 = 5;
/// How long etcd may take to start.
const START: Duration = Duration::from_secs(60);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// This often in a row the member that was made has to serve alone: those that there were may be slow to answer.
const LOOKS: u32 = 2;

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
    /// The member.
    #[error("etcd's member could not be made anew: {0}")]
    Restore(#[from] RestoreError),
    /// etcd.
    #[error("etcd does not serve yet: {0}; this host goes on trying")]
    Etcd(String),
    /// etcd serves, so there is nothing to recover.
    #[error(
        "etcd has its quorum again, or was never stopped: the recovery is given up, and nothing is lost by it"
    )]
    GivenUp,
    /// A bug of ours.
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
}

impl From<RecoveryError> for ApiError {
    fn from(err: RecoveryError) -> Self {
        match err {
            RecoveryError::Refused(message) => Self::new(ErrorCode::Conflict, message),
            RecoveryError::GivenUp => Self::new(ErrorCode::Conflict, err.to_string()),
            err => Self::internal(&err.to_string(), &err),
        }
    }
}

/// `host/recovery.json`: a recovery that is not finished. It is the daemon's, whatever becomes of who ordered it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stage")]
enum Pending {
    /// It was ordered; the member that goes on is being made of what etcd has here.
    #[serde(alias = "forcing")]
    Restoring {
        /// This host's part in etcd before; an older daemon did not note it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Role>,
    },
    /// It is made, and may have taken its place; etcd does not serve with it yet.
    Restored {
        /// The same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Role>,
        /// The members that etcd had before; an older daemon did not note them.
        #[serde(default)]
        members: Vec<Member>,
    },
    /// etcd served alone; the epoch is not raised yet.
    Noting,
    /// Hosts have not been told yet.
    Telling {
        /// Their ids.
        untold: BTreeSet<String>,
        /// The cluster's epoch that began with it; an older daemon did not note it.
        #[serde(default)]
        epoch: Option<u64>,
    },
}

/// What a recovery does next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Make the member that goes on. What this host was before is remembered.
    Restore(Option<Role>),
    /// Put it in the place of what was there, and wait until it serves, unless those members have their quorum again.
    Serve(Vec<Member>),
    /// Raise the epoch, and say who the members are.
    Note,
    /// Tell hosts of the epoch that began.
    Tell(BTreeSet<String>, Option<u64>),
    /// Nothing was lost by it yet, nor will be: put what was there in its place again, and follow those members.
    PutBack(Option<Role>, Vec<Member>),
    /// What was there is in its place: be again what this host was before.
    GiveUp(Option<Role>),
}

/// What counts besides how far a recovery has come.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// etcd was not stopped for it yet.
    is_member: bool,
    /// Somebody orders it now, and it does not go on from where the daemon was interrupted or something failed.
    ordered: bool,
    /// etcd has its quorum, without a member that was made anew: what was written since must not be lost.
    serves: bool,
}

fn next_step(pending: &Pending, seen: Seen) -> Step {
    match pending {
        Pending::Restoring { before } if seen.is_member && !seen.ordered => {
            Step::GiveUp(before.clone())
        }
        Pending::Restoring { before } if seen.serves => Step::GiveUp(before.clone()),
        Pending::Restored { before, members } if seen.serves => {
            Step::PutBack(before.clone(), members.clone())
        }
        Pending::Restoring { before } => Step::Restore(before.clone()),
        Pending::Restored { members, .. } => Step::Serve(members.clone()),
        Pending::Noting => Step::Note,
        Pending::Telling { untold, epoch } => Step::Tell(untold.clone(), *epoch),
    }
}

/// Makes this host's member go on alone, with what it knows. Answers who could not be told yet.
pub(crate) async fn recover(app: &App) -> Result<Recovered, RecoveryError> {
    let refused = |message: &str| Err(RecoveryError::Refused(message.into()));
    let Some(neighbours) = app.neighbours.clone() else {
        return refused("this host is alone: its etcd has no quorum to lose");
    };
    let role = neighbours.role.borrow().clone();
    if !matches!(role, Role::Member { .. } | Role::Restoring) {
        let members: Vec<_> =
            neighbours.grid.now().members.iter().map(|m| m.host.clone()).collect();
        return refused(&format!(
            "this host has no member of etcd; run this on the one of {} that is left",
            members.join(", ")
        ));
    }
    if serves(&app.etcd).await {
        return refused(
            "etcd has its quorum, so nothing is lost; replace a member with flynn-host remove",
        );
    }
    warn!("etcd's member on this host goes on alone, as it was ordered to");
    let this = app.clone();
    let work = async move {
        let _once = neighbours.recovering.lock().await;
        let left = pending(&neighbours.folders)?;
        // Whoever ordered it at the same time had it done meanwhile: once more, it would throw out who has joined.
        if matches!(left, None | Some(Pending::Telling { .. })) {
            if serves(&this.etcd).await {
                return go_on(&this, &neighbours, false).await;
            }
            let before = Some(role).filter(|role| matches!(role, Role::Member { .. }));
            keep(&neighbours, &Pending::Restoring { before })?;
        }
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
        match pending(&neighbours.folders) {
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
            Err(err @ RecoveryError::GivenUp) => info!("{err}"),
            Err(err) => {
                warn!(error = &err as &dyn Error, "etcd is not recovered yet; trying again");
            }
        }
    }
}

fn pending(folders: &Folders) -> io::Result<Option<Pending>> {
    disk::read_json(&folders.recovery_file())
}

/// Whether a recovery is under way on this host with which etcd did not serve yet, as far as can be known.
pub(crate) fn is_unsettled(folders: &Folders) -> bool {
    !matches!(pending(folders), Ok(None | Some(Pending::Noting | Pending::Telling { .. })))
}

/// Whether etcd answers, which it does with a quorum only.
async fn serves(etcd: &Keyspace) -> bool {
    timeout(ANSWER, etcd.get(MEMBERS)).await.is_ok_and(|answer| answer.is_ok())
}

fn keep(neighbours: &Neighbours, pending: &Pending) -> io::Result<()> {
    let path = neighbours.folders.recovery_file();
    match pending {
        Pending::Telling { untold, .. } if untold.is_empty() => fs::remove_file(path),
        _ => disk::write_json(&path, pending, Durable::Synced),
    }
}

/// Whether etcd serves without the member that a recovery is about to make, or has made and does not serve with yet. Until
/// then the members that there were are asked, not only those that this host follows.
async fn serves_without(
    app: &App,
    neighbours: &Neighbours,
    pending: &Pending,
    restoration: &Restoration<'_>,
) -> io::Result<bool> {
    let (is_untouched, members) = match pending {
        Pending::Restoring { .. } => (true, neighbours.grid.now().members.clone()),
        Pending::Restored { members, .. } => (restoration.is_made()?, members.clone()),
        Pending::Noting | Pending::Telling { .. } => return Ok(false),
    };
    let followed = async { is_untouched && serves(&app.etcd).await };
    let (followed, elsewhere) = tokio::join!(followed, neighbours.etcd_serves_elsewhere(&members));
    Ok(followed || elsewhere)
}

/// Goes on until the hosts that answer are told.
async fn go_on(
    app: &App,
    neighbours: &Neighbours,
    mut ordered: bool,
) -> Result<Recovered, RecoveryError> {
    let url = peer_url(neighbours.addr, neighbours.peer_port);
    loop {
        let Some(pending) = pending(&neighbours.folders)? else {
            return Ok(Recovered { untold: Vec::new() });
        };
        let restoration = restoration(app, neighbours, &url);
        let is_member = matches!(*neighbours.role.borrow(), Role::Member { .. });
        let ordered = std::mem::take(&mut ordered);
        let serves = !ordered && serves_without(app, neighbours, &pending, &restoration).await?;
        match next_step(&pending, Seen { is_member, ordered, serves }) {
            Step::Restore(before) => {
                neighbours.take_role(Role::Restoring)?;
                restoration.make().await?;
                let members = neighbours.grid.now().members.clone();
                keep(neighbours, &Pending::Restored { before, members })?;
            }
            Step::Serve(members) => {
                restoration.take()?;
                // Alone, so that no other host's member is asked in its stead.
                neighbours.grid.follow(vec![alone(&neighbours.id, &url)]);
                let cluster = format!("{}={url}", neighbours.id);
                neighbours.take_role(Role::Member { cluster, joined: false, id: None })?;
                if until_one_serves(neighbours, &members).await? == Serving::Made {
                    keep(neighbours, &Pending::Noting)?;
                }
            }
            Step::PutBack(before, members) => {
                put_back(neighbours, &restoration, members).await?;
                keep(neighbours, &Pending::Restoring { before })?;
            }
            Step::GiveUp(before) => {
                restoration.drop_made()?;
                be_as_before(neighbours, before)?;
                fs::remove_file(neighbours.folders.recovery_file())?;
                return Err(RecoveryError::GivenUp);
            }
            Step::Note => {
                // What is asked meanwhile may have led to one that there was.
                if neighbours.etcd_serves_here().await {
                    neighbours.grid.follow(vec![alone(&neighbours.id, &url)]);
                }
                until_served(&app.etcd).await?;
                let noted = note(&app.etcd, neighbours).await;
                let epoch = Some(noted.map_err(|err| RecoveryError::Etcd(err.to_string()))?);
                let untold = neighbours.grid.now().hosts.keys().cloned().collect();
                keep(neighbours, &Pending::Telling { untold, epoch })?;
            }
            Step::Tell(untold, epoch) => {
                let untold = tell_others(app, neighbours, &untold, epoch).await;
                let left = untold.iter().cloned().collect();
                keep(neighbours, &Pending::Telling { untold: left, epoch })?;
                return Ok(Recovered { untold });
            }
        }
    }
}

/// Undoes that the member which was made took its place, and follows those again that there were before it.
async fn put_back(
    neighbours: &Neighbours,
    restoration: &Restoration<'_>,
    members: Vec<Member>,
) -> Result<(), RecoveryError> {
    restoration.check_aside()?;
    neighbours.take_role(Role::Restoring)?;
    restoration.put_back().await?;
    if !members.is_empty() {
        neighbours.grid.follow(members);
    }
    Ok(())
}

/// Takes the old membership up again, for which the data is there. If this host was removed, etcd tells it.
fn be_as_before(neighbours: &Neighbours, before: Option<Role>) -> io::Result<()> {
    if matches!(*neighbours.role.borrow(), Role::Member { .. }) {
        return Ok(());
    }
    let by_grid = || etcd::added(&neighbours.id, &neighbours.grid.now());
    neighbours.take_role(before.or_else(by_grid).unwrap_or(Role::Client))
}

fn restoration<'a>(app: &'a App, neighbours: &'a Neighbours, url: &'a str) -> Restoration<'a> {
    Restoration {
        engine: &app.host.engine,
        folders: &neighbours.folders,
        container: format!("{}-{ETCD}", app.host.settings.prefix),
        image: &neighbours.etcd_image,
        id: &neighbours.id,
        peer_url: url,
    }
}

fn alone(host: &str, peer_url: &str) -> Member {
    Member { host: host.into(), peer_url: peer_url.into(), learner: false, id: None }
}

/// Whose etcd serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serving {
    /// The member that was made.
    Made,
    /// Those that there were before it.
    Before,
}

/// Waits until the member that was made serves, or one of those that there were. The first is asked itself, for what this
/// host asks etcd may lead to another. The others are asked last: the member that was made counts only if they are still
/// without their quorum.
async fn until_one_serves(
    neighbours: &Neighbours,
    before: &[Member],
) -> Result<Serving, RecoveryError> {
    let end = Instant::now() + START;
    let mut alone = 0;
    loop {
        let here = neighbours.etcd_serves_here().await;
        if neighbours.etcd_serves_elsewhere(before).await {
            return Ok(Serving::Before);
        }
        alone = if here { alone + 1 } else { 0 };
        if alone == LOOKS {
            return Ok(Serving::Made);
        }
        if !here && Instant::now() > end {
            return Err(RecoveryError::Etcd("the member that was made does not answer".into()));
        }
        sleep(PAUSE).await;
    }
}

async fn until_served(etcd: &Keyspace) -> Result<(), RecoveryError> {
    let end = Instant::now() + START;
    loop {
        let said = match timeout(ANSWER, etcd.get(MEMBERS)).await {
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

/// The revision may be lower than before: a higher epoch keeps every term higher. Answers that epoch.
async fn note(etcd: &Keyspace, neighbours: &Neighbours) -> Result<u64, keyspace::Error> {
    let epoch = epoch(etcd).await? + 1;
    let mut attempts = 0;
    loop {
        // Whoever leads may add one at the same time: a list without it would make that host give its member up.
        let at = etcd.get(MEMBERS).await?.map_or(0, |entry| entry.mod_revision);
        let members = etcd.members().await?;
        let members = members_told(&members, &neighbours.grid.now().clone(), neighbours.peer_port);
        let members = serde_json::to_vec(&members).expect("members serialise");
        let raised = unless_told_since(at).put(EPOCH, epoch.to_string()).put(MEMBERS, members);
        attempts += 1;
        match etcd.commit(raised).await {
            Err(err) if err.is_conflict() && attempts < NOTE_ATTEMPTS => {}
            Err(err) => return Err(err),
            Ok(_) => break,
        }
    }
    info!(epoch, "etcd serves again, with one member");
    Ok(epoch)
}

async fn epoch(etcd: &Keyspace) -> Result<u64, keyspace::Error> {
    let epoch = etcd.get(EPOCH).await?;
    Ok(epoch.and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or(0))
}

/// Every host that answers gives up what its own etcd knew.
async fn tell_others(
    app: &App,
    neighbours: &Neighbours,
    untold: &BTreeSet<String>,
    epoch: Option<u64>,
) -> Vec<String> {
    let others: Vec<_> = {
        let grid = neighbours.grid.now();
        let others =
            grid.hosts.iter().filter(|(id, _)| **id != neighbours.id && untold.contains(*id));
        others.map(|(id, record)| (id.clone(), record.subnet)).collect()
    };
    let told = others.into_iter().map(|(id, subnet)| async move {
        let Some(subnet) = subnet else { return Some(id) };
        let host = app.leadership.host_at(subnet.gateway());
        match timeout(TELLING_TIMEOUT, host.follow(&neighbours.id, epoch)).await {
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

#[cfg(test)]
mod tests;
