//! What providers made, whose it is, and what of it is to be destroyed.

use std::time::Duration;

use api::{
    controller::{NewResource, Resource},
    id::{AppId, ProviderId, ResourceId},
};
use pg::{GenericClient, Row, types::Json};
use uuid::Uuid;

use super::{Page, Tx, json, provisionings};
use crate::error::{Error, Result};

/// Time after which a request to a provider that was not answered is over, in seconds. It is longer than the timeout of such
/// a request (`neighbours/providers.rs`) with its attempts to connect.
pub(super) const UNANSWERED_SECONDS: f64 = 150.0;

const RESOURCE: &str = "SELECT resource_id, provider_id, external_id, env, created_at, deleted_at, \
     purge_at, purging, ARRAY(SELECT l.app_id FROM app_resources l JOIN apps a USING (app_id) \
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
        purging: row.get("purging"),
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

/// How it is known that there is a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Its provider was asked for it, and has answered.
    Provider,
    /// Somebody says so.
    Hearsay,
}

/// Nothing is recorded that is being destroyed. The provider is locked.
async fn check_kept(
    tx: &Tx<'_>,
    id: ResourceId,
    provider: ProviderId,
    external: &str,
    origin: Origin,
) -> Result<()> {
    let late = origin == Origin::Provider && !provisionings::is_begun(tx, id).await?;
    if late || provisionings::is_condemned(tx, provider, external).await? {
        return Err(Error::Conflict(format!(
            "{external:?} was made for a request whose answer came too late or was lost, and is being destroyed: ask for \
             another one"
        )));
    }
    Ok(())
}

/// What a provider calls so is not recorded under another id. Its provider is locked.
async fn check_new(
    tx: &Tx<'_>,
    id: ResourceId,
    provider: ProviderId,
    external: &str,
) -> Result<()> {
    let sql = "SELECT resource_id, deleted_at IS NOT NULL AS removed, purging FROM resources \
               WHERE provider_id = $1 AND external_id = $2 AND resource_id <> $3";
    let found = pg::row_opt(&**tx, sql, &[&provider.uuid(), &external, &id.uuid()]).await?;
    let Some(row) = found else { return Ok(()) };
    let known: ResourceId = row.get::<_, Uuid>("resource_id").into();
    Err(match (row.get("removed"), row.get("purging")) {
        (false, _) => Error::Exists(format!("{external:?} is recorded already, as {known}")),
        (true, false) => Error::Conflict(format!(
            "{external:?} was recorded as {known} and removed: `flynn resource-restore {known}` brings it back"
        )),
        (true, true) => Error::Conflict(format!(
            "{external:?} was removed and is being destroyed: ask for another one"
        )),
    })
}

/// Records a resource. The same id again is the same resource: its environment becomes this one, and its apps are added
/// to.
pub(crate) async fn put(
    tx: &mut Tx<'_>,
    id: ResourceId,
    provider: ProviderId,
    new: &NewResource,
    apps: &[AppId],
    origin: Origin,
) -> Result<Resource> {
    let external = new.external_id.clone().unwrap_or_default();
    provisionings::lock_provider(tx, provider).await?;
    check_kept(tx, id, provider, &external, origin).await?;
    check_new(tx, id, provider, &external).await?;
    let sql = "INSERT INTO resources (resource_id, provider_id, external_id, env) \
               VALUES ($1, $2, $3, $4) ON CONFLICT (resource_id) DO UPDATE SET env = excluded.env \
               WHERE resources.provider_id = $2 AND resources.external_id = $3 \
                 AND resources.deleted_at IS NULL";
    let values: [&(dyn pg::types::ToSql + Sync); 4] =
        [&id.uuid(), &provider.uuid(), &external, &Json(&new.env)];
    if pg::execute(&**tx, sql, &values).await? == 0 {
        return Err(Error::Conflict(format!(
            "{id} is or was another resource: give this one an id of its own"
        )));
    }
    for app in apps {
        link(tx, id, *app).await?;
    }
    provisionings::end(&**tx, id).await?;
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

/// Sets when each removed resource is purged, where nobody has yet.
pub(crate) async fn date(db: &impl GenericClient, grace: Duration) -> Result<()> {
    let sql = "UPDATE resources SET purge_at = deleted_at + make_interval(secs => $1) \
               WHERE deleted_at IS NOT NULL AND purge_at IS NULL";
    pg::execute(db, sql, &[&grace.as_secs_f64()]).await?;
    Ok(())
}

/// Takes removed resources whose time has come: the first first, at most `each` of a provider, together with the requests it
/// is `busy` with. They can be restored no longer. What is not answered is taken again after [`UNANSWERED_SECONDS`] at the
/// earliest, for the provider may still be at it: by then another may have its id. [`answered`] makes it sooner.
pub(crate) async fn take_due(
    db: &impl GenericClient,
    busy: &[ProviderId],
    each: i64,
    limit: i64,
) -> Result<Vec<Resource>> {
    let sql = "UPDATE resources SET purging = true, purge_failures = purge_failures + 1, \
                   asked_at = now(), purge_at = now() + greatest($4 * interval '1 second', \
                       least(interval '15 seconds' * 2 ^ least(purge_failures, 10), interval '1 hour')) \
               WHERE resource_id IN (SELECT resource_id FROM resources JOIN \
                   (SELECT resource_id, row_number() OVER \
                        (PARTITION BY provider_id ORDER BY purge_at, resource_id) AS place \
                    FROM resources WHERE deleted_at IS NOT NULL AND purge_at <= now()) due \
                   USING (resource_id) \
                   WHERE place + (SELECT count(*) FROM unnest($1::uuid[]) AS busy (id) \
                                WHERE busy.id = provider_id) <= $2 \
                     AND deleted_at IS NOT NULL AND purge_at <= now() \
                   ORDER BY purge_at LIMIT $3 FOR UPDATE OF resources SKIP LOCKED) \
               RETURNING resource_id";
    let busy: Vec<Uuid> = busy.iter().map(|id| id.uuid()).collect();
    let taken = pg::rows(db, sql, &[&busy, &each, &limit, &UNANSWERED_SECONDS]).await?;
    let taken: Vec<Uuid> = taken.iter().map(|row| row.get(0)).collect();
    let sql = format!("{RESOURCE} WHERE resource_id = ANY($1)");
    Ok(pg::rows(db, &sql, &[&taken]).await?.iter().map(of_row).collect())
}

/// A provider that was asked to destroy a resource has answered that it did not. It is asked again in a quarter of a minute,
/// each time after twice the time, up to an hour.
pub(crate) async fn answered(db: &impl GenericClient, id: ResourceId) -> Result<()> {
    let sql = "UPDATE resources SET asked_at = NULL, purge_at = asked_at \
                   + least(interval '15 seconds' * 2 ^ least(purge_failures - 1, 10), interval '1 hour') \
               WHERE resource_id = $1 AND purging AND asked_at IS NOT NULL";
    pg::execute(db, sql, &[&id.uuid()]).await?;
    Ok(())
}

/// Forgets a resource; the event says why.
pub(crate) async fn forget(
    tx: &mut Tx<'_>,
    resource: &Resource,
    event: &'static str,
) -> Result<()> {
    let id = resource.id.uuid();
    pg::execute(&**tx, "DELETE FROM app_resources WHERE resource_id = $1", &[&id]).await?;
    let sql = "DELETE FROM resources WHERE resource_id = $1 AND deleted_at IS NOT NULL";
    pg::execute(&**tx, sql, &[&id]).await?;
    tx.event(None, event, resource.id, &without_env(resource.clone()));
    Ok(())
}

/// Forgets what was removed, and what was asked for without an answer, of a provider that is not asked to destroy it.
pub(crate) async fn give_up(tx: &mut Tx<'_>, provider: ProviderId) -> Result<()> {
    let id = provider.uuid();
    let sql =
        format!("{RESOURCE} WHERE provider_id = $1 AND deleted_at IS NOT NULL FOR UPDATE OF r");
    for row in pg::rows(&**tx, &sql, &[&id]).await? {
        forget(tx, &of_row(&row), "resource_given_up").await?;
    }
    pg::execute(&**tx, "DELETE FROM provisionings WHERE provider_id = $1", &[&id]).await?;
    Ok(())
}
