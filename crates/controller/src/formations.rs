//! Formations as they change.

use std::sync::Arc;

use api::{
    controller::ExpandedFormation,
    id::{AppId, ReleaseId},
};
use futures_util::{Stream, StreamExt, stream};
use jiff::Timestamp;

use crate::{
    error::Result,
    events::{Events, Told, pause},
    store::{self, events::Filter},
};

/// Formations expanded at a time.
const PIECE: usize = 200;

/// All formations changed since then, then `None`, then every change.
///
/// What is sent of a formation is read after the event that announces its change, so it is never older than what was sent
/// before.
pub(crate) async fn follow(
    events: &Events,
    since: Option<Timestamp>,
) -> Result<impl Stream<Item = Option<ExpandedFormation>> + Send + use<>> {
    let client = events.db().client().await?;
    // What happens after this is followed, what happened before is in the backlog; both is harmless.
    let last = store::events::last(&client).await?;
    let keys = store::formations::keys(&client, since).await?;
    drop(client);
    let types = ["scale_request", "app", "app_release"].map(str::to_owned).into();
    let follower = events.follower(last, Filter { types, ..Filter::default() })?;
    let pieces: Vec<Vec<Key>> = keys.chunks(PIECE).map(<[Key]>::to_vec).collect();
    let backlog = stream::iter(pieces).then({
        let events = events.clone();
        move |keys| {
            let events = events.clone();
            async move { expanded(&events, &keys).await }
        }
    });
    let changes = stream::unfold((events.clone(), follower), async |(events, mut follower)| {
        let told = follower.batch().await;
        Some((changed(&events, &told).await, (events, follower)))
    });
    let backlog = backlog.flat_map(stream::iter).map(Some).chain(stream::iter([None]));
    Ok(events.until_stop(backlog.chain(changes.flat_map(stream::iter).map(Some))))
}

type Key = (AppId, ReleaseId);

/// A piece of the backlog, however often the database has to be asked.
async fn expanded(events: &Events, keys: &[Key]) -> Vec<ExpandedFormation> {
    loop {
        let read =
            async { store::formations::expand_all(&events.db().client().await?, keys).await };
        match read.await {
            Ok(formations) => return formations,
            Err(err) => pause(&err).await,
        }
    }
}

/// The formations that events are about, as they are now, however often the database has to be asked.
async fn changed(events: &Events, told: &[Arc<Told>]) -> Vec<ExpandedFormation> {
    loop {
        match keys_of(events, told).await {
            Ok(keys) => return expanded(events, &keys).await,
            Err(err) => pause(&err).await,
        }
    }
}

async fn keys_of(events: &Events, told: &[Arc<Told>]) -> Result<Vec<Key>> {
    let mut keys: Vec<Key> = Vec::new();
    let mut apps: Vec<AppId> = Vec::new();
    for event in told.iter().map(|told| &told.event) {
        let Some(app) = event.app else { continue };
        if event.object_type == "scale_request" {
            keys.extend(event.object_id.parse().ok().map(|release| (app, release)));
        } else {
            apps.push(app);
        }
    }
    apps.sort_unstable();
    apps.dedup();
    if !apps.is_empty() {
        let client = events.db().client().await?;
        for app in apps {
            let formations = store::formations::of_app(&client, app).await?;
            keys.extend(formations.iter().map(|formation| (app, formation.release)));
        }
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}
