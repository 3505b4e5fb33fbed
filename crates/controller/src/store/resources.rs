//! What providers made, whose it is, and what of it is to be destroyed.

use std::time::Duration;

use api::{
    controller::{NewResource, Resource},
    id::{AppId, ProviderId, ResourceId},
};
use pg::{GenericClient, Row, types::Json};
use uuid::Uuid;

use super::{Page, Tx, json};
use crate::error::{Error, Result};

const RESOURCE: &str = "SELECT resource_id, provider_id, external_id, env, created_at, deleted_at, \
     purge_at, ARRAY(SELECT l.app_id FROM app_resources l JOIN apps a USING (app_id) \
           WHERE l.resource_id = r.resource_id AND a.deleted_at IS NULL \
           ORDER BY l.app_id) AS apps FROM resources r";
/// The page of a list whose resources are given by more conditions.
const PAGE: &str = "($1::uuid IS NULL OR (created_at, resource_id) < \
         (SELECT created_at, resource_id FROM resources WHERE resource_id = $1)) \
     ORDER BY created_at DESC, resource_id DESC LIMIT $2";

fn of_row(row: &Row) -> Resource {
    let apps: Vec<Uuid> = row.get("apps");
    Resource {
        id: row.get::<_, Uuid>("resource_id").into(),
        provider: row.get::<_, Uuid>("provider_id").into(),
        external_id: row.get("external_id"),
        env: json(row, "env"),
        apps: apps.into_iter().map(Into::into).collect(),
        created_at: row.get("created_at"),
        deleted_at: row.get("deleted_at"),
        purge_at: row.get("purge_at"),
    }
}

/// Events and lists of everything hold no secrets.
fn without_env(resource: Resource) -> Resource {
    Resource { env: super::Map::new(), ..resource }
}

/// A resource, also one that was removed and can still be restored.
pub(crate) async fn find(db: &impl GenericClient, id: ResourceId) -> Result<Resource> {
    let sql = format!("{RESOURCE} WHERE resource_id = $1");
    let row = pg::row_opt(db, &sql, &[&id.uuid()]).await?;
    row.as_ref().map(of_row).ok_or_else(|| Error::missing("resource", id))
}

/// Locks a resource to the end of the transaction: what is found of it afterwards stays so. Who also locks an app has done
/// that before.
pub(crate) async fn lock(tx: &Tx<'_>, id: ResourceId) -> Result<()> {
    let sql = "SELECT 1 FROM resources WHERE resource_id = $1 FOR UPDATE";
    pg::row_opt(&**tx, sql, &[&id.uuid()]).await?;
    Ok(())
}

/// All resources, newest first, without what is in their environments; with `removed` also those that can be restored.
pub(crate) async fn list(
    db: &impl GenericClient,
    page: Page,
    removed: bool,
) -> Result<Vec<Resource>> {
    let sql = format!("{RESOURCE} WHERE ($3 OR deleted_at IS NULL) AND {PAGE}");
    let rows = pg::rows(db, &sql, &[&page.before, &page.limit, &removed]).await?;
    super::begun(db, &rows, ("resources", "resource_id"), page.before).await?;
    Ok(rows.iter().map(of_row).map(without_env).collect())
}

/// What a provider made and nobody removed, newest first.
pub(crate) async fn of_provider(
    db: &impl GenericClient,
    provider: ProviderId,
    page: Page,
) -> Result<Vec<Resource>> {
    let sql = format!("{RESOURCE} WHERE provider_id = $3 AND deleted_at IS NULL AND {PAGE}");
    let rows = pg::rows(db, &sql, &[&page.before, &page.limit, &provider.uuid()]).await?;
    super::begun(db, &rows, ("resources", "resource_id"), page.before).await?;
    Ok(rows.iter().map(of_row).collect())
}

/// What an app uses, newest first.
pub(crate) async fn of_app(
    db: &impl GenericClient,
    app: AppId,
    page: Page,
) -> Result<Vec<Resource>> {
    let sql = format!(
        "{RESOURCE} WHERE deleted_at IS NULL AND resource_id IN \
             (SELECT resource_id FROM app_resources WHERE app_id = $3) AND {PAGE}"
    );
    let rows = pg::rows(db, &sql, &[&page.before, &page.limit, &app.uuid()]).await?;
    super::begun(db, &rows, ("resources", "resource_id"), page.before).await?;
    Ok(rows.iter().map(of_row).collect())
}

/// Records a resource. The same id again is the same resource: its environment becomes this one, and its apps are added
/// to.
pub(crate) async fn put(
    tx: &mut Tx<'_>,
    id: ResourceId,
    provider: ProviderId,
    new: &NewResource,
    apps: &[AppId],
) -> Result<Resource> {
    let sql = "INSERT INTO resources (resource_id, provider_id, external_id, env) \
               VALUES ($1, $2, $3, $4) ON CONFLICT (resource_id) DO UPDATE SET env = excluded.env \
               WHERE resources.provider_id = $2 AND resources.external_id = $3 \
                 AND resources.deleted_at IS NULL";
    let external = new.external_id.clone().unwrap_or_default();
    let values: [&(dyn pg::types::ToSql + Sync); 4] =
        [&id.uuid(), &provider.uuid(), &external, &Json(&new.env)];
    let put = pg::execute(&**tx, sql, &values).await.map_err(|err| match err.violated() {
        Some(_) => Error::Exists(format!("the resource {external:?} is recorded already")),
        None => err.into(),
    })?;
    if put == 0 {
        return Err(Error::Conflict(format!(
            "{id} is or was another resource: give this one an id of its own"
        )));
    }
    for app in apps {
        link(tx, id, *app).await?;
    }
    let forget = "DELETE FROM provisionings WHERE resource_id = $1";
    pg::execute(&**tx, forget, &[&id.uuid()]).await?;
    told(tx, id, "resource").await
}

async fn told(tx: &mut Tx<'_>, id: ResourceId, what: &'static str) -> Result<Resource> {
    let resource = find(&**tx, id).await?;
    tx.event(None, what, id, &without_env(resource.clone()));
    Ok(resource)
}

async fn link(tx: &Tx<'_>, resource: ResourceId, app: AppId) -> Result<()> {
    let sql = "INSERT INTO app_resources (app_id, resource_id) \
               SELECT app_id, $2 FROM apps WHERE app_id = $1 ON CONFLICT DO NOTHING";
    pg::execute(&**tx, sql, &[&app.uuid(), &resource.uuid()]).await?;
    Ok(())
}

/// Lets an app use a resource.
pub(crate) async fn add_app(tx: &mut Tx<'_>, id: ResourceId, app: AppId) -> Result<Resource> {
    link(tx, id, app).await?;
    told(tx, id, "resource").await
}

/// An app uses a resource no longer. The resource stays.
pub(crate) async fn remove_app(tx: &mut Tx<'_>, id: ResourceId, app: AppId) -> Result<Resource> {
    let sql = "DELETE FROM app_resources WHERE app_id = $1 AND resource_id = $2";
    pg::execute(&**tx, sql, &[&app.uuid(), &id.uuid()]).await?;
    told(tx, id, "resource").await
}

/// Removes a resource: it is purged after `grace`. Removed again, the first time counts.
pub(crate) async fn remove(tx: &mut Tx<'_>, id: ResourceId, grace: Duration) -> Result<Resource> {
    let sql = "UPDATE resources SET deleted_at = now(), \
                   purge_at = now() + make_interval(secs => $2) \
               WHERE resource_id = $1 AND deleted_at IS NULL";
    pg::execute(&**tx, sql, &[&id.uuid(), &grace.as_secs_f64()]).await?;
    told(tx, id, "resource_deletion").await
}

/// Removes what only this app uses, which is being deleted. [`date`] says when it is purged.
pub(super) async fn remove_of_app(tx: &mut Tx<'_>, app: AppId) -> Result<()> {
    // A statement of its own, for the next one sees who else was given it until then.
    let lock = "SELECT 1 FROM resources WHERE resource_id IN \
                    (SELECT resource_id FROM app_resources WHERE app_id = $1) \
                ORDER BY resource_id FOR UPDATE";
    pg::rows(&**tx, lock, &[&app.uuid()]).await?;
    let sql = "UPDATE resources r SET deleted_at = now() WHERE deleted_at IS NULL \
               AND EXISTS (SELECT 1 FROM app_resources l \
                           WHERE l.resource_id = r.resource_id AND l.app_id = $1) \
               AND NOT EXISTS (SELECT 1 FROM app_resources l JOIN apps a USING (app_id) \
                               WHERE l.resource_id = r.resource_id AND a.deleted_at IS NULL \
                                 AND l.app_id <> $1) RETURNING resource_id";
    let removed = pg::rows(&**tx, sql, &[&app.uuid()]).await?;
    for row in &removed {
        told(tx, row.get::<_, Uuid>("resource_id").into(), "resource_deletion").await?;
    }
    let sql = "DELETE FROM app_resources WHERE app_id = $1";
    pg::execute(&**tx, sql, &[&app.uuid()]).await?;
    Ok(())
}

/// Brings a removed resource back, unless its purge has begun.
pub(crate) async fn restore(tx: &mut Tx<'_>, id: ResourceId) -> Result<Resource> {
    let sql = "UPDATE resources SET deleted_at = NULL, purge_at = NULL \
               WHERE resource_id = $1 AND NOT purging";
    if pg::execute(&**tx, sql, &[&id.uuid()]).await? == 0 {
        find(&**tx, id).await?;
        return Err(Error::Conflict(format!(
            "the time in which {id} could be restored is over: it is being destroyed"
        )));
    }
    told(tx, id, "resource").await
}

/// Notes what a provider is about to be asked for.
pub(crate) async fn begin_provisioning(
    db: &impl GenericClient,
    id: ResourceId,
    provider: ProviderId,
    config: &serde_json::Value,
) -> Result<()> {
    let sql = "INSERT INTO provisionings (resource_id, provider_id, config) VALUES ($1, $2, $3) \
               ON CONFLICT (resource_id) DO NOTHING";
    pg::execute(db, sql, &[&id.uuid(), &provider.uuid(), &Json(config)]).await?;
    Ok(())
}

/// Forgets it again: the provider made nothing, or what it made is destroyed.
pub(crate) async fn end_provisioning(db: &impl GenericClient, id: ResourceId) -> Result<()> {
    pg::execute(db, "DELETE FROM provisionings WHERE resource_id = $1", &[&id.uuid()]).await?;
    Ok(())
}

/// Sets when each removed resource is purged, where nobody has yet.
pub(crate) async fn date(db: &impl GenericClient, grace: Duration) -> Result<()> {
    let sql = "UPDATE resources SET purge_at = deleted_at + make_interval(secs => $1) \
               WHERE deleted_at IS NOT NULL AND purge_at IS NULL";
    pg::execute(db, sql, &[&grace.as_secs_f64()]).await?;
    Ok(())
}

/// Takes removed resources whose time has come, the first first. They can be restored no longer, and are taken again in a
/// quarter of a minute, should this controller not come to the end.
pub(crate) async fn take_due(db: &impl GenericClient, limit: i64) -> Result<Vec<Resource>> {
    let sql = "UPDATE resources SET purging = true, purge_at = now() + interval '15 seconds' \
               WHERE resource_id IN (SELECT resource_id FROM resources \
                   WHERE deleted_at IS NOT NULL AND purge_at <= now() \
                   ORDER BY purge_at LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING resource_id";
    let taken: Vec<Uuid> = pg::rows(db, sql, &[&limit]).await?.iter().map(|r| r.get(0)).collect();
    let sql = format!("{RESOURCE} WHERE resource_id = ANY($1)");
    Ok(pg::rows(db, &sql, &[&taken]).await?.iter().map(of_row).collect())
}

/// Forgets a resource that its provider has destroyed.
pub(crate) async fn forget(tx: &mut Tx<'_>, resource: &Resource) -> Result<()> {
    let id = resource.id.uuid();
    pg::execute(&**tx, "DELETE FROM app_resources WHERE resource_id = $1", &[&id]).await?;
    let sql = "DELETE FROM resources WHERE resource_id = $1 AND deleted_at IS NOT NULL";
    pg::execute(&**tx, sql, &[&id]).await?;
    tx.event(None, "resource_purge", resource.id, &without_env(resource.clone()));
    Ok(())
}

/// What a provider was asked for without an answer.
#[derive(Debug)]
pub(crate) struct Lost {
    /// The id it was to have.
    pub(crate) id: ResourceId,
    /// Who was asked.
    pub(crate) provider: ProviderId,
    /// For what.
    pub(crate) config: serde_json::Value,
}

/// Provisionings whose answer was lost, and that may be looked at again only in five minutes.
pub(crate) async fn take_lost(db: &impl GenericClient, limit: i64) -> Result<Vec<Lost>> {
    let sql = "UPDATE provisionings SET retry_at = now() + interval '5 minutes' \
               WHERE resource_id IN (SELECT resource_id FROM provisionings \
                   WHERE retry_at <= now() ORDER BY retry_at LIMIT $1 FOR UPDATE SKIP LOCKED) \
               RETURNING resource_id, provider_id, config";
    let lost = |row: &Row| Lost {
        id: row.get::<_, Uuid>("resource_id").into(),
        provider: row.get::<_, Uuid>("provider_id").into(),
        config: json(row, "config"),
    };
    Ok(pg::rows(db, sql, &[&limit]).await?.iter().map(lost).collect())
}
