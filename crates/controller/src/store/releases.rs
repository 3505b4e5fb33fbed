//! Releases.

use api::{
    controller::{NewRelease, Release},
    id::{AppId, ReleaseId},
};
use pg::{GenericClient, Row, types::Json};
use uuid::Uuid;

use super::{Tx, json};
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

/// All releases, newest first.
pub(crate) async fn list(db: &impl GenericClient) -> Result<Vec<Release>> {
    let sql = format!("SELECT {COLUMNS} FROM releases ORDER BY created_at DESC, release_id");
    Ok(pg::rows(db, &sql, &[]).await?.iter().map(of_row).collect())
}

/// The releases of an app, newest first: those made for it, and those it runs or ran.
pub(crate) async fn of_app(db: &impl GenericClient, app: AppId) -> Result<Vec<Release>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM releases r WHERE app_id = $1 OR release_id IN \
         (SELECT release_id FROM formations WHERE app_id = $1 \
          UNION SELECT release_id FROM apps WHERE app_id = $1) \
         ORDER BY created_at DESC, release_id"
    );
    Ok(pg::rows(db, &sql, &[&app.uuid()]).await?.iter().map(of_row).collect())
}

/// A release.
pub(crate) async fn find(db: &impl GenericClient, id: ReleaseId) -> Result<Release> {
    find_opt(db, id).await?.ok_or_else(|| Error::missing("release", id))
}

/// A release, if there is one of that id.
pub(crate) async fn find_opt(db: &impl GenericClient, id: ReleaseId) -> Result<Option<Release>> {
    let sql = format!("SELECT {COLUMNS} FROM releases WHERE release_id = $1");
    Ok(pg::row_opt(db, &sql, &[&id.uuid()]).await?.as_ref().map(of_row))
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
