//! What is no longer kept: looked for and deleted, a bounded number at a time.

use std::time::Duration;

use api::id::{AppId, ReleaseId};
use pg::{GenericClient, Row};
use uuid::Uuid;

use super::Tx;
use crate::{
    domain::retention::{Candidate, Kept},
    error::Result,
};

/// One controller at a time deletes.
const LOCK: i64 = 0x0066_6c79_6e67;
/// Rows of one statement, so that it ends within the time of a statement.
const BATCH: i64 = 5000;
/// Whether something needs a release.
const NEEDED: &str = "(EXISTS (SELECT 1 FROM apps WHERE release_id = r.release_id AND deleted_at IS NULL) \
     OR EXISTS (SELECT 1 FROM formations f WHERE f.release_id = r.release_id AND f.deleted_at IS NULL \
                  AND f.processes <> '{}') \
     OR EXISTS (SELECT 1 FROM deployments d WHERE d.status IN ('pending', 'running') \
                  AND r.release_id IN (d.old_release, d.new_release)) \
     OR EXISTS (SELECT 1 FROM jobs j WHERE j.release_id = r.release_id \
                  AND j.state NOT IN ('down', 'crashed')))";

/// Takes the right to delete, until the session is dropped; `false`: another controller has it.
pub(crate) async fn take_turn(session: &pg::Session) -> Result<bool> {
    let taken = session.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK]).await;
    Ok(taken.map_err(pg::Error::from)?.get(0))
}

/// The releases of all apps, or of one.
pub(crate) async fn releases(
    db: &impl GenericClient,
    app: Option<AppId>,
) -> Result<Vec<Candidate>> {
    // Of an app with few there is nothing to delete.
    let sql = format!(
        "SELECT release_id, app_id, created_at, {NEEDED} AS needed FROM releases r \
         WHERE app_id IS NOT NULL AND ($1::uuid IS NULL OR app_id = $1) \
         ORDER BY app_id, created_at DESC LIMIT 100000"
    );
    let candidate = |row: &Row| Candidate {
        id: row.get::<_, Uuid>("release_id").into(),
        app: row.get::<_, Uuid>("app_id").into(),
        created_at: row.get("created_at"),
        needed: row.get("needed"),
    };
    let rows = pg::rows(db, &sql, &[&app.map(AppId::uuid)]).await?;
    Ok(rows.iter().map(candidate).collect())
}

/// Deletes a release with the deployments of it, unless something needs it after all. Answers whether it did.
pub(crate) async fn delete_release(tx: &mut Tx<'_>, app: AppId, id: ReleaseId) -> Result<bool> {
    // All that changes what runs of an app locks it first.
    let lock = "SELECT 1 FROM apps WHERE app_id = $1 FOR UPDATE";
    pg::execute(&**tx, lock, &[&app.uuid()]).await?;
    let id = id.uuid();
    let sql = format!("SELECT 1 FROM releases r WHERE release_id = $1 AND NOT {NEEDED}");
    if pg::row_opt(&**tx, &sql, &[&id]).await?.is_none() {
        return Ok(false);
    }
    for sql in [
        "UPDATE apps SET release_id = NULL WHERE release_id = $1",
        "DELETE FROM deployments WHERE $1 IN (old_release, new_release)",
        "DELETE FROM formations WHERE release_id = $1",
        "DELETE FROM releases WHERE release_id = $1",
    ] {
        pg::execute(&**tx, sql, &[&id]).await?;
    }
    Ok(true)
}

/// Apps that were deleted before this time ago, those deleted first first.
pub(crate) async fn deleted_apps(db: &impl GenericClient, ago: Duration) -> Result<Vec<AppId>> {
    let sql = "SELECT app_id FROM apps \
               WHERE deleted_at < now() - make_interval(secs => $1) ORDER BY deleted_at LIMIT 1000";
    let apps = pg::rows(db, sql, &[&ago.as_secs_f64()]).await?;
    Ok(apps.iter().map(|row| row.get::<_, Uuid>(0).into()).collect())
}

/// Deletes what is left of an app that was deleted.
pub(crate) async fn forget_app(tx: &Tx<'_>, app: AppId) -> Result<()> {
    for sql in [
        "UPDATE apps SET release_id = NULL WHERE app_id = $1",
        "DELETE FROM deployments WHERE app_id = $1",
        "DELETE FROM formations WHERE app_id = $1",
        "DELETE FROM app_resources WHERE app_id = $1",
        "DELETE FROM services WHERE app_id = $1",
        "DELETE FROM repositories WHERE app_id = $1",
        "DELETE FROM releases WHERE app_id = $1",
        "DELETE FROM apps WHERE app_id = $1 AND deleted_at IS NOT NULL",
    ] {
        pg::execute(&**tx, sql, &[&app.uuid()]).await?;
    }
    Ok(())
}

/// Deletes artifacts that no release names and nobody wanted for this time. Answers how many.
pub(crate) async fn delete_artifacts(db: &impl GenericClient, ago: Duration) -> Result<u64> {
    let sql = "DELETE FROM artifacts WHERE artifact_id IN (SELECT artifact_id FROM artifacts a \
                   WHERE used_at <= now() - make_interval(secs => $1) AND NOT EXISTS \
                       (SELECT 1 FROM releases WHERE artifacts @> ARRAY[a.artifact_id]) \
                   ORDER BY used_at LIMIT $2 FOR UPDATE SKIP LOCKED)";
    Ok(pg::execute(db, sql, &[&ago.as_secs_f64(), &BATCH]).await?)
}

/// Deletes events and ended deployments older than this. Answers how many.
pub(crate) async fn delete_history(db: &impl GenericClient, ago: Duration) -> Result<u64> {
    let old = "now() - make_interval(secs => $1)";
    let events = format!(
        "DELETE FROM events WHERE event_id IN (SELECT event_id FROM events \
         WHERE created_at < {old} ORDER BY created_at LIMIT $2)"
    );
    let deployments = format!(
        "DELETE FROM deployments WHERE deployment_id IN (SELECT deployment_id FROM deployments \
         WHERE status NOT IN ('pending', 'running') AND finished_at < {old} LIMIT $2)"
    );
    let mut deleted = 0;
    for sql in [&events, &deployments] {
        deleted += pg::execute(db, sql, &[&ago.as_secs_f64(), &BATCH]).await?;
    }
    Ok(deleted)
}

/// Forgets jobs that ended before this time ago. Answers how many.
pub(crate) async fn delete_jobs(db: &impl GenericClient, ago: Duration) -> Result<u64> {
    let sql = "DELETE FROM jobs WHERE job_id IN (SELECT job_id FROM jobs \
               WHERE state IN ('down', 'crashed') \
                 AND updated_at < now() - make_interval(secs => $1) LIMIT $2)";
    Ok(pg::execute(db, sql, &[&ago.as_secs_f64(), &BATCH]).await?)
}

/// What is named by what is kept.
pub(crate) async fn kept(db: &impl GenericClient) -> Result<Kept> {
    let sql = "SELECT uri || ' ' || meta::text FROM artifacts";
    let artifacts = pg::rows(db, sql, &[]).await?.iter().map(|row| row.get(0)).collect();
    let sql = "SELECT app_id, unnest(packs) AS pack FROM repositories";
    let pack = |row: &Row| {
        let (app, pack): (Uuid, String) = (row.get("app_id"), row.get("pack"));
        // A pack is named by its path, its file or its digest.
        let name = pack.rsplit('/').next().unwrap_or_default();
        (app.into(), name.split('.').next().unwrap_or_default().to_owned())
    };
    let packs = pg::rows(db, sql, &[]).await?.iter().map(pack).collect();
    let apps = pg::rows(db, "SELECT app_id FROM apps", &[]).await?;
    let apps = apps.iter().map(|row| row.get::<_, Uuid>(0).into()).collect();
    Ok(Kept { artifacts, packs, apps })
}
