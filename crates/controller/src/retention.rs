//! Deletes what is no longer kept, from the database and from shelf: one controller at a time, each thing again and again
//! until it is gone. `domain::retention` decides.

use std::collections::BTreeMap;

use api::{blob::Blob, controller::Collected, id::AppId};
use jiff::Timestamp;
use shelf_client::Shelf;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    domain::retention::{Policy, old_releases, unneeded},
    error::{Error, Result},
    server::Controller,
    store::{self, Tx},
    volumes,
};

/// Statements that delete a batch each, in one round.
const BATCHES: usize = 50;
/// Folders in shelf of which something may be deleted. Each is listed in parts, for a listing has an end.
const FOLDERS: [&str; 5] = ["slugs", "images", "repos", "cache", "builds"];

/// Deletes until the daemon stops.
pub(crate) async fn keep(controller: Controller, stop: CancellationToken) {
    let mut tick = interval(controller.retention.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        match stop.run_until_cancelled(collect(&controller, None)).await {
            Some(Err(err)) => {
                let error = &err as &dyn std::error::Error;
                warn!(error, "what is no longer kept could not be deleted yet");
            }
            Some(Ok(done)) if done != Collected::default() => info!(
                "deleted {} releases, {} artifacts and {} blobs ({} bytes)",
                done.releases, done.artifacts, done.blobs, done.bytes
            ),
            _ => {}
        }
    }
}

/// One round, over all apps or with the releases of one.
pub(crate) async fn collect(controller: &Controller, app: Option<AppId>) -> Result<Collected> {
    let turn = controller.db.session().await?;
    if !store::retention::take_turn(&turn).await? {
        return Err(Error::Conflict(
            "another controller is deleting at the moment; ask again in a minute".into(),
        ));
    }
    let mut client = controller.db.client().await?;
    round(controller, &mut client, app).await
}

async fn round(
    controller: &Controller,
    client: &mut pg::Client,
    app: Option<AppId>,
) -> Result<Collected> {
    let policy = controller.retention;
    let mut done = Collected::default();
    let all = store::retention::releases(&*client, app).await?;
    let apps: BTreeMap<_, _> = all.iter().map(|release| (release.id, release.app)).collect();
    for id in old_releases(&all, &policy, Timestamp::now()) {
        let mut tx = Tx::begin(client).await?;
        if store::retention::delete_release(&mut tx, apps[&id], id).await? {
            tx.commit().await?;
            done.releases += 1;
        }
    }
    if app.is_none() {
        for _ in 0..BATCHES {
            let deleted = store::retention::delete_history(&*client, policy.history).await?
                + store::retention::delete_jobs(&*client, policy.delay).await?;
            if deleted == 0 {
                break;
            }
        }
        if let Err(err) = forget_apps(controller, client).await {
            let error = &err as &dyn std::error::Error;
            warn!(error, "what deleted apps left could not be deleted yet");
        }
    }
    for _ in 0..BATCHES {
        let deleted = store::retention::delete_artifacts(&*client, policy.delay).await?;
        done.artifacts += deleted;
        if deleted == 0 {
            break;
        }
    }
    if let Ok(shelf) = controller.neighbours.shelf() {
        sweep(shelf, client, &policy, &mut done).await?;
    }
    Ok(done)
}

/// Forgets apps that were deleted long enough ago, and removes their volumes first: whose they were is known by the app.
async fn forget_apps(controller: &Controller, client: &mut pg::Client) -> Result<()> {
    for _ in 0..BATCHES {
        let due = store::retention::deleted_apps(&*client, controller.retention.delay).await?;
        let gone = match due.is_empty() {
            true => break,
            false => volumes::remove_of_deleted(controller, due.into_iter().collect()).await?,
        };
        for app in &gone {
            let tx = Tx::begin(client).await?;
            store::retention::forget_app(&tx, *app).await?;
            tx.commit().await?;
        }
        // The others are looked at in the next round.
        if gone.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Deletes from shelf what nothing that is kept names.
async fn sweep(
    shelf: &Shelf,
    client: &pg::Client,
    policy: &Policy,
    done: &mut Collected,
) -> Result<()> {
    // Listed before it is looked up what is kept: what comes later is too young to go.
    let blobs = blobs(shelf).await?;
    let kept = store::retention::kept(client).await?;
    for blob in unneeded(&blobs, &kept, policy, Timestamp::now()) {
        // One that was stored again meanwhile stays.
        shelf.delete_listed(blob).await.map_err(Error::Shelf)?;
        done.blobs += 1;
        done.bytes += blob.size;
    }
    Ok(())
}

/// Everything in shelf that is an app's or was made for one.
pub(crate) async fn blobs(shelf: &Shelf) -> Result<Vec<Blob>> {
    let mut all = Vec::new();
    for folder in FOLDERS {
        for digit in "0123456789abcdef".chars() {
            let prefix = format!("/{folder}/{digit}");
            all.extend(shelf.list(&prefix).await.map_err(Error::Shelf)?);
        }
    }
    Ok(all)
}
