//! Who uses the disk: what shelf and the hosts keep, by app.

use std::collections::BTreeMap;

use api::{id::AppId, usage::Usage};

use crate::{
    domain::usage::{shares, shelf_path},
    error::Result,
    retention,
    server::Controller,
    store::{self, Page},
    volumes,
};

/// Most apps whose names are told.
const APPS_MAX: i64 = 10_000;

/// What each app has, the largest first.
pub(crate) async fn list(controller: &Controller) -> Result<Vec<Usage>> {
    let blobs = retention::blobs(controller.neighbours.shelf()?).await?;
    let volumes = volumes::list(controller).await?;
    let client = controller.db.client().await?;
    let apps = store::apps::list(&client, Page { before: None, limit: APPS_MAX }).await?;
    let mut named: BTreeMap<String, Vec<AppId>> = BTreeMap::new();
    for (app, uri) in store::artifacts::of_releases(&client).await? {
        if let Some(path) = shelf_path(&uri) {
            named.entry(path).or_default().push(app);
        }
    }
    Ok(shares(&apps, &blobs, &named, &volumes))
}
