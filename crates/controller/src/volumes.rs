//! The volumes of the cluster: asked of its hosts, for nobody else knows what is on a disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use api::{
    controller::{App, META_VOLUMES_BY_NAME},
    id::AppId,
    volume::{HostVolume, Volume},
};
use futures_util::{StreamExt, stream};
use tracing::warn;

use crate::{
    domain::owned_volumes::{Kept, Owners, all, removable},
    error::{Error, Result},
    scope::is_system,
    server::Controller,
    store::{self, Counts, Page},
};

/// Longest wait for a host: it counts for 5 s.
const HOST_TIMEOUT: Duration = Duration::from_secs(12);
/// Hosts asked at a time.
const AT_ONCE: usize = 32;
/// Most apps whose names are told.
const APPS_MAX: i64 = 10_000;

/// The volumes of all hosts.
pub(crate) async fn list(controller: &Controller) -> Result<Vec<Volume>> {
    let owners = {
        let client = controller.db.client().await?;
        let apps = store::apps::list(&client, Page { before: None, limit: APPS_MAX }).await?;
        owners(&client, apps).await?
    };
    gathered(controller, &owners).await
}

/// The volumes of an app.
pub(crate) async fn of_app(controller: &Controller, app: &App) -> Result<Vec<Volume>> {
    let owners = owners(&controller.db.client().await?, vec![app.clone()]).await?;
    let mut volumes = gathered(controller, &owners).await?;
    volumes.retain(|volume| volume.app == Some(app.id));
    Ok(volumes)
}

/// Removes a volume of an app that nothing has and nothing shall have.
pub(crate) async fn remove(
    controller: &Controller,
    app: &str,
    id: &str,
    host: Option<&str>,
) -> Result<Volume> {
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, app).await?;
    if is_system(&app) {
        let message = format!("{} is a part of Flynn: its volumes are not removed", app.name);
        return Err(Error::Conflict(message));
    }
    drop(client);
    let volumes = of_app(controller, &app).await?;
    // Last thing: hosts may have taken long to answer.
    let client = controller.db.client().await?;
    let wanted = store::formations::wanted(&client, app.id).await?;
    drop(client);
    take_away(controller, &volumes, &wanted, id, host).await
}

/// Removes a volume that no app has: of one that is no more, or of nobody who is known.
pub(crate) async fn remove_left(
    controller: &Controller,
    id: &str,
    host: Option<&str>,
) -> Result<Volume> {
    let client = controller.db.client().await?;
    let live = Owners::new(Vec::new(), &store::apps::by_name(&client, None).await?);
    if let Some(owner) = live.of(id) {
        match store::apps::find(&client, &owner.app.to_string()).await {
            Ok(app) => {
                let message = format!("volume {id} is one of {}: remove it there", app.name);
                return Err(Error::Conflict(message));
            }
            Err(Error::Missing { .. }) => {}
            Err(err) => return Err(err),
        }
    }
    drop(client);
    let volumes = gathered(controller, &Owners::default()).await?;
    take_away(controller, &volumes, &Counts::new(), id, host).await
}

async fn take_away(
    controller: &Controller,
    volumes: &[Volume],
    wanted: &Counts,
    id: &str,
    host: Option<&str>,
) -> Result<Volume> {
    let volume = removable(volumes, wanted, id, host).map_err(|kept| match kept {
        Kept::Missing(id) => Error::missing("volume", id),
        Kept::Wanted { .. } | Kept::Several { .. } => Error::Conflict(kept.to_string()),
    })?;
    let host = controller.neighbours.host(&volume.host_id)?;
    let removed = host.remove_volume(&volume.id).await;
    removed.map_err(Error::neighbour("removing the volume"))?;
    Ok(volume.clone())
}

async fn owners(client: &pg::Client, apps: Vec<App>) -> Result<Owners> {
    let by_name = |app: &&App| app.meta.get(META_VOLUMES_BY_NAME).is_some_and(|v| v == "true");
    let named: Vec<_> = apps.iter().filter(by_name).map(|app| app.id).collect();
    let named = match named.is_empty() {
        true => Vec::new(),
        false => store::apps::by_name(client, Some(&named)).await?,
    };
    Ok(Owners::new(apps, &named))
}

async fn gathered(controller: &Controller, owners: &Owners) -> Result<Vec<Volume>> {
    let hosts = controller.neighbours.hosts();
    if hosts.is_empty() {
        return Err(Error::Away("no host of the cluster is known at the moment; try again".into()));
    }
    let ask = |(id, host): (String, host_client::Host)| async move {
        let answer = tokio::time::timeout(HOST_TIMEOUT, host.volumes()).await;
        let answer: Option<Vec<HostVolume>> = match answer {
            Ok(Ok(volumes)) => Some(volumes),
            Ok(Err(err)) => {
                warn!(error = &err as &dyn std::error::Error, host.id = %id, "host {id} does not list its volumes");
                None
            }
            Err(_) => None,
        };
        (id, answer)
    };
    let answers: BTreeMap<_, _> =
        stream::iter(hosts.into_iter().map(ask)).buffer_unordered(AT_ONCE).collect().await;
    let sampi = controller.neighbours.sampi();
    // Who has what of hosts that do not answer: without the leader it is not told.
    let claims = sampi.state().await.map(|state| state.volumes).unwrap_or_default();
    Ok(all(owners, answers, &claims))
}

/// Removes the volumes of these apps, which were deleted; answers the apps that have none left. Each host of the cluster
/// has to be known and to answer: what one of them keeps is not forgotten.
pub(crate) async fn remove_of_deleted(
    controller: &Controller,
    apps: BTreeSet<AppId>,
) -> Result<BTreeSet<AppId>> {
    let doing = "asking the hosts for the volumes of deleted apps";
    let owners = owners_of_deleted(controller, &apps).await?;
    let state = controller.neighbours.sampi().state().await.map_err(Error::neighbour(doing))?;
    // After the cluster was asked: a controller that has just started knows no host yet.
    let hosts = controller.neighbours.hosts();
    let is_known = |host: &String| hosts.iter().any(|(id, _)| id == host);
    if state.hosts.is_empty() || hosts.is_empty() {
        return Err(Error::Away("no host of the cluster is known at the moment".into()));
    }
    if let Some(host) = state.hosts.keys().find(|host| !is_known(host)) {
        return Err(Error::Away(format!("where host {host} is is not known at the moment")));
    }
    let mut left = apps;
    for (volume, host) in &state.volumes {
        if !is_known(host)
            && let Some(app) = owners(volume)
        {
            left.remove(&app);
        }
    }
    for (id, host) in hosts {
        let volumes = tokio::time::timeout(HOST_TIMEOUT, host.volumes()).await;
        let volumes = volumes.map_err(|_| Error::Away(format!("host {id} does not answer")))?;
        for volume in volumes.map_err(Error::neighbour(doing))? {
            let Some(app) = owners(&volume.name).filter(|app| left.contains(app)) else { continue };
            if let Err(err) = host.remove_volume(&volume.name).await {
                let error = &err as &dyn std::error::Error;
                warn!(error, host.id = %id, app.id = %app, "volume {} stays for now", volume.name);
                left.remove(&app);
            }
        }
    }
    Ok(left)
}

/// Which of these apps, which were deleted, had a volume. A name that an app has which is still there is not theirs.
async fn owners_of_deleted(
    controller: &Controller,
    apps: &BTreeSet<AppId>,
) -> Result<impl Fn(&str) -> Option<AppId> + use<>> {
    let client = controller.db.client().await?;
    let apps: Vec<_> = apps.iter().copied().collect();
    let deleted = Owners::new(Vec::new(), &store::apps::by_name(&client, Some(&apps)).await?);
    let live = Owners::new(Vec::new(), &store::apps::by_name(&client, None).await?);
    Ok(move |name: &str| {
        let owner = deleted.of(name)?.app;
        live.of(name).is_none_or(|live| live.app == owner).then_some(owner)
    })
}
