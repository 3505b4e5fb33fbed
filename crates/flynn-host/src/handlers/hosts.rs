use std::collections::BTreeSet;

use api::{
    error::ErrorCode,
    host::{ActiveJob, EtcdRole, HostInfo, META_OMNI, Recovered},
};
use axum::{
    Json,
    extract::{Path, Query, State},
};
use daemon::ApiError;
use keyspace::{Keyspace, Transaction};
use serde::Deserialize;
use tracing::info;

use crate::{
    grid::{HOSTS, Record},
    leaving, recovery, removal,
    routes::App,
    subnet,
};

/// Every host of the cluster, those that are away too.
pub(crate) async fn list(State(app): State<App>) -> Json<Vec<HostInfo>> {
    let state = app.leadership.state_of_leader().await;
    let told = state.is_some();
    let state = state.unwrap_or_default();
    let (present, leader) = app.leadership.known();
    let (records, members) = match &app.neighbours {
        Some(neighbours) => {
            let grid = neighbours.grid.now();
            (grid.hosts.clone(), grid.members.clone())
        }
        None => Default::default(),
    };
    let ids: BTreeSet<&String> = records.keys().chain(present.keys()).collect();
    let info = |id: &String| {
        let record: Option<&Record> = records.get(id);
        let member = members.iter().find(|member| member.host == *id);
        let placed = state.hosts.get(id);
        HostInfo {
            id: id.clone(),
            addr: record.map(|record| record.addr.into()),
            subnet: record.and_then(|record| record.subnet).map(|subnet| subnet.to_string()),
            etcd: match member {
                None if app.neighbours.is_some() => EtcdRole::None,
                Some(member) if member.learner => EtcdRole::Learner,
                _ => EtcdRole::Voter,
            },
            api: present.get(id).map(|instance| instance.addr.clone()),
            up: present.contains_key(id),
            unreachable: told && placed.is_none() && present.contains_key(id),
            leader: leader.as_ref() == Some(id),
            draining: placed.is_some_and(|placed| placed.is_draining()),
            full: placed.is_some_and(|placed| placed.is_full()),
            jobs: placed.map(|host| u32::try_from(host.jobs.len()).unwrap_or(u32::MAX)),
            memory_used: placed.map(|host| host.jobs.values().map(|job| job.limits.memory).sum()),
            capacity: placed.map(|host| host.capacity),
            joined_at: record.map(|record| record.joined_at),
        }
    };
    Json(ids.into_iter().map(info).collect())
}

/// How a host is removed.
#[derive(Debug, Deserialize)]
pub(crate) struct Removal {
    #[serde(default)]
    force: bool,
}

/// Takes a host out of the cluster: one that is away, that runs nothing any more, or whose jobs are stopped for it. Once
/// begun it is finished, also when whoever asked is gone.
pub(crate) async fn remove(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(Removal { force }): Query<Removal>,
) -> Result<(), ApiError> {
    let conflict = |message: String| Err(ApiError::new(ErrorCode::Conflict, message));
    let Some(neighbours) = &app.neighbours else {
        return conflict("this host is alone in its cluster: there is nobody to remove".into());
    };
    if id == app.host.settings.id {
        let message = "a host does not remove itself: run this on another host of the cluster";
        return conflict(message.into());
    }
    let Some(record) = neighbours.grid.now().hosts.get(&id).cloned() else {
        return Err(ApiError::not_found(format!(
            "the cluster has no host {id}; see flynn-host list"
        )));
    };
    let (present, _) = app.leadership.known();
    if let Some(instance) = present.get(&id)
        && !force
    {
        // Asked of the host itself: what the leading one knows is some seconds old.
        let Some(jobs) = app.leadership.jobs_at(instance).await else {
            return conflict(format!(
                "{id} does not say whether it runs anything; try again, or --force"
            ));
        };
        // What belongs to every host goes with it.
        let stays =
            |job: &&ActiveJob| job.status.is_active() && !job.job.metadata.contains_key(META_OMNI);
        let rest = jobs.values().filter(stays).count();
        if rest > 0 {
            return conflict(format!(
                "{id} runs {rest} jobs: empty it first with flynn-host drain {id}, or stop them with it: --force"
            ));
        }
    }
    let force = present.get(&id).filter(|_| force).map(|one| app.leadership.host_of(one));
    let etcd = app.etcd.clone();
    let work = async move {
        if let Some(host) = force {
            removal::stop_everything(&host).await;
        }
        forget(&etcd, &id, &record).await
    };
    let removed = app.host.lifetime.carry_out(work).await;
    removed.map_err(|err| ApiError::internal("removing the host", &err))?
}

async fn forget(etcd: &Keyspace, id: &str, record: &Record) -> Result<(), ApiError> {
    let key = format!("{HOSTS}{id}");
    let (stone, then) = leaving::tombstone(id, record.joined_at);
    let mut removal = Transaction::new().when_present(&key).delete(&key).put(stone, then);
    if let Some(part) = record.subnet {
        let (key, now) = subnet::freed(part);
        removal = removal.delete(subnet::key(part)).put(key, now);
    }
    match etcd.commit(removal).await {
        Err(err) if !err.is_conflict() => {
            return Err(ApiError::unavailable(format!("{id} could not be removed: {err}")));
        }
        _ => info!("host {id} is removed from the cluster"),
    }
    Ok(())
}

/// etcd goes on with this host's member alone.
pub(crate) async fn recover(State(app): State<App>) -> Result<Json<Recovered>, ApiError> {
    Ok(Json(recovery::recover(&app).await?))
}

/// Which recovery it is about.
#[derive(Deserialize)]
pub(crate) struct RecoveredEpoch {
    epoch: Option<u64>,
}

/// etcd goes on with another host's member alone.
pub(crate) async fn follow(
    State(app): State<App>,
    Path(host): Path<String>,
    Query(recovered): Query<RecoveredEpoch>,
) -> Result<(), ApiError> {
    Ok(recovery::follow(&app, &host, recovered.epoch).await?)
}
