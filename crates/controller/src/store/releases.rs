//! Releases.

use std::collections::BTreeMap;

use api::{
    controller::{NewRelease, Release},
    id::{AppId, ReleaseId},
};
use pg::{GenericClient, Row, types::Json};
use uuid::Uuid;

use super::{Page, Tx, json};
use crate::error::{Error, Result};

const COLUMNS: &str = "release_id, app_id, artifacts, env, meta, processes, created_at";

fn of_row(row: &Row) -> Release {
    let artifacts: Vec<Uuid> = row.get("artifacts");
    Release {
        id: row.get::<_, Uuid>("release_id").into(),
        app_id: row.get::<_, Option<Uuid>>("app_id").map(Into::into),
        artifacts: artifacts.into_iter().map(Into::into).collect(),
        env: json(row, "env"),
        meta: json(row, "meta"),
        processes: json(row, "processes"),
        created_at: row.get("created_at"),
    }
}

/// A list of releases, newest first; `env`: with their environments, which hold secrets.
pub(crate) async fn list(
    db: &impl GenericClient,
    app: Option<AppId>,
    page: Page,
    env: bool,
) -> Result<Vec<Release>> {
    // Of an app: those made for it, and those it runs or ran.
    let of_app = "app_id = $3 OR release_id IN \
         (SELECT release_id FROM formations WHERE app_id = $3 \
          UNION SELECT release_id FROM apps WHERE app_id = $3)";
    let which = if app.is_some() { of_app } else { "$3::uuid IS NULL" };
    let sql = format!(
        "SELECT {COLUMNS} FROM releases WHERE deleted_at IS NULL AND ({which}) \
             AND ($1::uuid IS NULL OR (created_at, release_id) < \
                 (SELECT created_at, release_id FROM releases WHERE release_id = $1)) \
         ORDER BY created_at DESC, release_id DESC LIMIT $2"
    );
    let app = app.map(AppId::uuid);
    let rows = pg::rows(db, &sql, &[&page.before, &page.limit, &app]).await?;
    super::begun(db, &rows, ("releases", "release_id"), page.before).await?;
    let releases = rows.iter().map(of_row);
    Ok(if env { releases.collect() } else { releases.map(|one| without_env(&one)).collect() })
}

/// A release.
pub(crate) async fn find(db: &impl GenericClient, id: ReleaseId) -> Result<Release> {
    find_opt(db, id).await?.ok_or_else(|| Error::missing("release", id))
}

/// A release, if there is one of that id.
pub(crate) async fn find_opt(db: &impl GenericClient, id: ReleaseId) -> Result<Option<Release>> {
    let sql =
        format!("SELECT {COLUMNS} FROM releases WHERE release_id = $1 AND deleted_at IS NULL");
    Ok(pg::row_opt(db, &sql, &[&id.uuid()]).await?.as_ref().map(of_row))
}

/// Those of these releases that there are or were.
pub(crate) async fn find_all(
    db: &impl GenericClient,
    ids: &[Uuid],
) -> Result<BTreeMap<ReleaseId, Release>> {
    let sql = format!("SELECT {COLUMNS} FROM releases WHERE release_id = ANY($1)");
    let rows = pg::rows(db, &sql, &[&ids]).await?;
    Ok(rows.iter().map(of_row).map(|release| (release.id, release)).collect())
}

/// Deletes a release that nothing runs and nothing deploys: it is listed no more, and its environment is forgotten.
pub(crate) async fn delete(tx: &mut Tx<'_>, app: AppId, release: &Release) -> Result<()> {
    let sql = "SELECT 1 FROM apps WHERE release_id = $1 AND deleted_at IS NULL \
         UNION ALL SELECT 1 FROM formations WHERE release_id = $1 AND deleted_at IS NULL \
               AND processes <> '{}' \
         UNION ALL SELECT 1 FROM deployments WHERE status IN ('pending', 'running') \
               AND $1 IN (old_release, new_release) LIMIT 1";
    if pg::row_opt(&**tx, sql, &[&release.id.uuid()]).await?.is_some() {
        return Err(Error::Conflict(format!(
            "the release {} runs or is being deployed: deploy another one first",
            release.id
        )));
    }
    let sql = "UPDATE releases SET deleted_at = now(), env = '{}', \
                   processes = (SELECT coalesce(jsonb_object_agg(key, value - 'env'), '{}') \
                                FROM jsonb_each(processes)) WHERE release_id = $1";
    pg::execute(&**tx, sql, &[&release.id.uuid()]).await?;
    tx.event(app, "release_deletion", release.id, &without_env(release));
    Ok(())
}

/// Makes a release that has been validated. The same again, with the same id, is the same release.
pub(crate) async fn insert(tx: &mut Tx<'_>, new: &NewRelease) -> Result<Release> {
    let id = new.id.unwrap_or_else(ReleaseId::random);
    if let Some(app) = new.app_id {
        let services = super::services::of(new.processes.values());
        super::services::claim(tx, app, "processes", &services).await?;
    }
    let artifacts: Vec<Uuid> = new.artifacts.iter().map(|id| id.uuid()).collect();
    let sql = format!(
        "INSERT INTO releases (release_id, app_id, artifacts, env, meta, processes) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING {COLUMNS}"
    );
    let app = new.app_id.map(AppId::uuid);
    let made = pg::row_opt(
        &**tx,
        &sql,
        &[&id.uuid(), &app, &artifacts, &Json(&new.env), &Json(&new.meta), &Json(&new.processes)],
    )
    .await?;
    match made {
        Some(row) => {
            let release = of_row(&row);
            tx.event(release.app_id, "release", id, &without_env(&release));
            Ok(release)
        }
        None => same(find(&**tx, id).await?, new),
    }
}

fn same(there: Release, new: &NewRelease) -> Result<Release> {
    let wanted = Release {
        id: there.id,
        app_id: new.app_id,
        artifacts: new.artifacts.clone(),
        env: new.env.clone(),
        meta: new.meta.clone(),
        processes: new.processes.clone(),
        created_at: there.created_at,
    };
    if wanted == there {
        return Ok(there);
    }
    let message =
        format!("there is another release with the id {}: releases never change", there.id);
    Err(Error::Exists(message))
}

/// Events are kept for ever, and environments hold secrets.
fn without_env(release: &Release) -> Release {
    let mut release = release.clone();
    release.env.clear();
    for process in release.processes.values_mut() {
        process.env.clear();
    }
    release
}
