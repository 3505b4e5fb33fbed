//! Apps.

use std::{collections::BTreeMap, time::Duration};

use api::{
    controller::{App, AppChange, META_VOLUMES_BY_NAME, NewApp, ProcessType},
    id::{AppId, ReleaseId},
};
use pg::{GenericClient, Row, types::Json};
use uuid::Uuid;

use super::{Map, Page, Tx, json, read, spelt};
use crate::error::{Error, Result};

const COLUMNS: &str = "app_id, name, meta, strategy, deploy_timeout, release_id, created_at, updated_at, volumes_by_name";

pub(super) fn of_row(row: &Row) -> App {
    let mut meta: Map = json(row, "meta");
    meta.remove(META_VOLUMES_BY_NAME);
    if row.get("volumes_by_name") {
        meta.insert(META_VOLUMES_BY_NAME.into(), "true".into());
    }
    App {
        id: row.get::<_, Uuid>("app_id").into(),
        name: row.get("name"),
        meta,
        strategy: read(row.get("strategy")),
        release: row.get::<_, Option<Uuid>>("release_id").map(Into::into),
        deploy_timeout: super::count(row, "deploy_timeout"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    }
}

/// Apps, newest first.
pub(crate) async fn list(db: &impl GenericClient, page: Page) -> Result<Vec<App>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM apps WHERE deleted_at IS NULL AND ($1::uuid IS NULL \
             OR (created_at, app_id) < (SELECT created_at, app_id FROM apps WHERE app_id = $1)) \
         ORDER BY created_at DESC, app_id DESC LIMIT $2"
    );
    let rows = pg::rows(db, &sql, &[&page.before, &page.limit]).await?;
    super::begun(db, &rows, ("apps", "app_id"), page.before).await?;
    Ok(rows.iter().map(of_row).collect())
}

/// An app by id or name.
pub(crate) async fn find(db: &impl GenericClient, app: &str) -> Result<App> {
    select(db, app, "").await
}

/// An app by id or name, locked to the end of the transaction: all that changes what runs of an app does this first.
pub(crate) async fn lock(tx: &Tx<'_>, app: &str) -> Result<App> {
    select(&**tx, app, "FOR UPDATE").await
}

async fn select(db: &impl GenericClient, app: &str, lock: &str) -> Result<App> {
    let id = app.parse::<AppId>().ok().map(AppId::uuid);
    // A name may look like an id; an id wins.
    let sql = format!(
        "SELECT {COLUMNS} FROM apps WHERE (app_id = $1 OR name = $2) AND deleted_at IS NULL \
         ORDER BY (app_id = $1) DESC NULLS LAST LIMIT 1 {lock}"
    );
    let row = pg::row_opt(db, &sql, &[&id, &app]).await?;
    row.as_ref().map(of_row).ok_or_else(|| Error::missing("app", app))
}

/// Whether there is or was an app of that id.
pub(crate) async fn existed(db: &impl GenericClient, app: AppId) -> Result<bool> {
    let sql = "SELECT 1 FROM apps WHERE app_id = $1";
    Ok(pg::row_opt(db, sql, &[&app.uuid()]).await?.is_some())
}

/// Whether there was an app of that id and is no more.
pub(crate) async fn is_deleted(db: &impl GenericClient, app: AppId) -> Result<bool> {
    let sql = "SELECT 1 FROM apps WHERE app_id = $1 AND deleted_at IS NOT NULL";
    Ok(pg::row_opt(db, sql, &[&app.uuid()]).await?.is_some())
}

/// The process types that a release has.
pub(crate) type Types = BTreeMap<String, ProcessType>;

/// Apps whose volumes go by the app's name, with the types of each of their releases, the newest first: these, be they
/// deleted, or all that are not.
pub(crate) async fn by_name(
    db: &impl GenericClient,
    apps: Option<&[AppId]>,
) -> Result<Vec<(App, Vec<Types>)>> {
    let ids: Option<Vec<_>> = apps.map(|apps| apps.iter().map(|app| app.uuid()).collect());
    let sql = format!(
        "SELECT {COLUMNS}, ARRAY(SELECT processes FROM releases r WHERE r.app_id = apps.app_id \
                 OR r.release_id = apps.release_id OR r.release_id IN \
                     (SELECT f.release_id FROM formations f WHERE f.app_id = apps.app_id) \
             ORDER BY r.created_at DESC) AS types FROM apps \
         WHERE volumes_by_name AND CASE WHEN $1::uuid[] IS NULL THEN deleted_at IS NULL \
                                        ELSE app_id = ANY($1) END ORDER BY app_id"
    );
    let types = |row: &Row| row.get::<_, Vec<Json<Types>>>("types").into_iter().map(|one| one.0);
    let rows = pg::rows(db, &sql, &[&ids]).await?;
    Ok(rows.iter().map(|row| (of_row(row), types(row).collect())).collect())
}

/// Makes an app whose name has been validated.
pub(crate) async fn insert(tx: &mut Tx<'_>, new: &NewApp, name: &str) -> Result<App> {
    let id = new.id.unwrap_or_else(AppId::random);
    let sql = format!(
        "INSERT INTO apps (app_id, name, meta, strategy, deploy_timeout) \
         VALUES ($1, $2, $3, $4, $5) RETURNING {COLUMNS}"
    );
    let meta = new.meta.clone().unwrap_or_default();
    let strategy = spelt(&new.strategy.unwrap_or_default());
    let deploy_timeout = super::int(new.deploy_timeout.unwrap_or(120));
    let row = pg::row(
        &**tx,
        &sql,
        &[&id.uuid(), &name, &Json(meta), &strategy, &deploy_timeout],
    )
    .await
    .map_err(|err| match err.violated() {
        Some("apps_name") => Error::Exists(format!(
            "there is an app named {name:?} already: choose another name, or delete that app first"
        )),
        Some(_) => Error::Exists(format!("there is or was an app with the id {id}: give another")),
        None => err.into(),
    })?;
    let app = of_row(&row);
    let web = format!("{name}-web");
    super::services::claim(tx, app.id, "name", &[web.as_str()].into()).await?;
    tx.event(app.id, "app", app.id, &app);
    Ok(app)
}

/// Sets the meta, and changes strategy or deploy timeout unless they are absent.
pub(crate) async fn update(
    tx: &mut Tx<'_>,
    app: AppId,
    meta: &Map,
    change: &AppChange,
) -> Result<App> {
    let sql = format!(
        "UPDATE apps SET meta = $2, strategy = coalesce($3, strategy), \
         deploy_timeout = coalesce($4, deploy_timeout), updated_at = now() \
         WHERE app_id = $1 RETURNING {COLUMNS}"
    );
    let meta = Json(meta);
    let strategy = change.strategy.as_ref().map(spelt);
    let deploy_timeout = change.deploy_timeout.map(super::int);
    let row = pg::row(&**tx, &sql, &[&app.uuid(), &meta, &strategy, &deploy_timeout]).await?;
    let app = of_row(&row);
    tx.event(app.id, "app", app.id, &app);
    Ok(app)
}

/// Sets the release that serves.
pub(crate) async fn set_release(tx: &mut Tx<'_>, app: AppId, release: ReleaseId) -> Result<()> {
    let sql = format!(
        "UPDATE apps SET release_id = $2, updated_at = now() WHERE app_id = $1 RETURNING {COLUMNS}"
    );
    let row = pg::row(&**tx, &sql, &[&app.uuid(), &release.uuid()]).await?;
    tx.event(app, "app_release", release, &of_row(&row));
    Ok(())
}

/// Frees the name, and with it everything that went by it.
pub(crate) async fn delete(tx: &mut Tx<'_>, app: &App) -> Result<()> {
    let sql = "UPDATE apps SET deleted_at = now(), updated_at = now() WHERE app_id = $1";
    pg::execute(&**tx, sql, &[&app.id.uuid()]).await?;
    pg::execute(&**tx, "DELETE FROM repositories WHERE app_id = $1", &[&app.id.uuid()]).await?;
    super::resources::remove_of_app(tx, app.id).await?;
    super::services::free(&**tx, app.id).await?;
    tx.event(app.id, "app_deletion", app.id, app);
    Ok(())
}

/// An app that shall be deleted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Deletion {
    /// The app.
    pub(crate) app: App,
    /// Since it was asked for.
    pub(crate) waited: Duration,
    /// How long the slowest of its processes may take to stop.
    pub(crate) stop_timeout: Duration,
}

/// Asks for the deletion of an app that has been locked.
pub(crate) async fn ask_deletion(tx: &mut Tx<'_>, app: &App) -> Result<()> {
    let sql = "UPDATE apps SET deleting_since = clock_timestamp() \
               WHERE app_id = $1 AND deleting_since IS NULL AND deleted_at IS NULL";
    pg::execute(&**tx, sql, &[&app.id.uuid()]).await?;
    // Tells the controllers that there is work.
    tx.event(app.id, "app", app.id, app);
    Ok(())
}

/// Whether an app shall be deleted and is not yet.
pub(crate) async fn is_being_deleted(db: &impl GenericClient, app: AppId) -> Result<bool> {
    let sql = "SELECT 1 FROM apps \
               WHERE app_id = $1 AND deleting_since IS NOT NULL AND deleted_at IS NULL";
    Ok(pg::row_opt(db, sql, &[&app.uuid()]).await?.is_some())
}

/// Refuses what an app that is being deleted shall not get. With the app locked, that holds to the end of the transaction.
pub(crate) async fn check_stays(db: &impl GenericClient, app: AppId) -> Result<()> {
    if is_being_deleted(db, app).await? {
        return Err(Error::Conflict("the app is being deleted".into()));
    }
    Ok(())
}

/// The apps that shall be deleted, the first asked for first.
pub(crate) async fn deletions(db: &impl GenericClient) -> Result<Vec<Deletion>> {
    let sql = format!(
        "SELECT {COLUMNS}, \
             extract(epoch FROM clock_timestamp() - deleting_since)::float8 AS waited, \
             (SELECT max(greatest(coalesce((p.value->>'stop_timeout_seconds')::float8, 30), 0)) \
              FROM formations f JOIN releases r USING (release_id), jsonb_each(r.processes) p \
              WHERE f.app_id = apps.app_id) AS stop_timeout \
         FROM apps WHERE deleting_since IS NOT NULL AND deleted_at IS NULL \
         ORDER BY deleting_since LIMIT 100"
    );
    let seconds = |seconds: Option<f64>| {
        Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or_default()
    };
    let deletion = |row: &Row| Deletion {
        app: of_row(row),
        waited: seconds(row.get("waited")),
        stop_timeout: seconds(row.get("stop_timeout")),
    };
    Ok(pg::rows(db, &sql, &[]).await?.iter().map(deletion).collect())
}

/// Gives the deletion of an app up, and says why.
pub(crate) async fn give_up_deletion(tx: &mut Tx<'_>, app: &App, error: &str) -> Result<()> {
    let sql = "UPDATE apps SET deleting_since = NULL WHERE app_id = $1 AND deleted_at IS NULL";
    pg::execute(&**tx, sql, &[&app.id.uuid()]).await?;
    let mut data = serde_json::to_value(app).expect("wire types serialise");
    data["error"] = error.into();
    tx.event(app.id, "app_deletion", app.id, &data);
    Ok(())
}
