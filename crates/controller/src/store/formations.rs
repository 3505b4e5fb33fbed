//! Formations.

use std::collections::BTreeMap;

use api::{
    controller::{ExpandedFormation, Formation, Tags},
    id::{AppId, ReleaseId},
};
use jiff::Timestamp;
use pg::{GenericClient, Row, types::Json};
use uuid::Uuid;

use super::{Counts, Page, Tx, artifacts, json, releases};
use crate::error::{Error, Result};

const COLUMNS: &str = "app_id, release_id, processes, tags, created_at, updated_at";

fn of_row(row: &Row) -> Formation {
    let mut processes: Counts = json(row, "processes");
    processes.retain(|_, count| *count > 0);
    Formation {
        app: row.get::<_, Uuid>("app_id").into(),
        release: row.get::<_, Uuid>("release_id").into(),
        processes,
        tags: json(row, "tags"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    }
}

/// The formations of an app, newest first.
pub(crate) async fn of_app(db: &impl GenericClient, app: AppId) -> Result<Vec<Formation>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM formations WHERE app_id = $1 AND deleted_at IS NULL \
         ORDER BY created_at DESC, release_id"
    );
    Ok(pg::rows(db, &sql, &[&app.uuid()]).await?.iter().map(of_row).collect())
}

/// Of each type the most that an app shall have: by its formations, and by what it is on its way to or may go back to. In
/// the middle of a deployment the formations alone may want none.
pub(crate) async fn wanted(db: &impl GenericClient, app: AppId) -> Result<Counts> {
    let sql = "SELECT key, least(max(value::bigint), 2147483647)::int AS count FROM ( \
                   SELECT processes AS counts FROM formations \
                       WHERE app_id = $1 AND deleted_at IS NULL \
                   UNION ALL SELECT unnest(ARRAY[processes, original]) FROM deployments \
                       WHERE app_id = $1 AND status IN ('pending', 'running')) AS wishes, \
               jsonb_each_text(counts) GROUP BY key";
    let rows = pg::rows(db, sql, &[&app.uuid()]).await?;
    Ok(rows.iter().map(|row| (row.get("key"), super::count(row, "count"))).collect())
}

/// A formation.
pub(crate) async fn find(
    db: &impl GenericClient,
    app: AppId,
    release: ReleaseId,
) -> Result<Formation> {
    let found = find_opt(db, app, release).await?;
    found.ok_or_else(|| Error::missing("formation of release", release))
}

/// A formation, if there is one.
pub(crate) async fn find_opt(
    db: &impl GenericClient,
    app: AppId,
    release: ReleaseId,
) -> Result<Option<Formation>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM formations \
         WHERE app_id = $1 AND release_id = $2 AND deleted_at IS NULL"
    );
    let row = pg::row_opt(db, &sql, &[&app.uuid(), &release.uuid()]).await?;
    Ok(row.as_ref().map(of_row))
}

/// Says how many shall run. A formation that comes to be has the tags of the app's last one: they are of the app's types,
/// whichever release runs.
pub(crate) async fn put(
    tx: &mut Tx<'_>,
    app: AppId,
    release: ReleaseId,
    processes: &Counts,
) -> Result<Formation> {
    let sql = format!(
        "INSERT INTO formations (app_id, release_id, processes, tags) \
         VALUES ($1, $2, $3, coalesce((SELECT tags FROM formations \
             WHERE app_id = $1 AND release_id <> $2 AND deleted_at IS NULL \
             ORDER BY updated_at DESC LIMIT 1), '{{}}')) \
         ON CONFLICT (app_id, release_id) DO UPDATE \
         SET processes = $3, updated_at = now(), deleted_at = NULL, \
             tags = CASE WHEN formations.deleted_at IS NULL THEN formations.tags \
                         ELSE excluded.tags END \
         RETURNING {COLUMNS}"
    );
    let row = pg::row(&**tx, &sql, &[&app.uuid(), &release.uuid(), &Json(processes)]).await?;
    let formation = of_row(&row);
    event(tx, &formation);
    Ok(formation)
}

/// On hosts with which tags the processes of an app's types may run.
pub(crate) async fn tags(db: &impl GenericClient, app: AppId) -> Result<Tags> {
    let sql = "SELECT tags FROM formations WHERE app_id = $1 AND deleted_at IS NULL \
               ORDER BY updated_at DESC LIMIT 1";
    let row = pg::row_opt(db, sql, &[&app.uuid()]).await?;
    Ok(row.map(|row| json(&row, "tags")).unwrap_or_default())
}

/// Says on hosts with which tags the processes of these types may run; of all other types it stays as it is. It holds for
/// all formations of the app, so that a deployment under way takes it over.
pub(crate) async fn set_tags(tx: &mut Tx<'_>, app: AppId, tags: &Tags) -> Result<()> {
    let sql = format!(
        "UPDATE formations SET tags = (SELECT coalesce(jsonb_object_agg(key, value), '{{}}') \
             FROM jsonb_each(formations.tags || $2) WHERE value <> '{{}}'), updated_at = now() \
         WHERE app_id = $1 AND deleted_at IS NULL RETURNING {COLUMNS}"
    );
    let rows = pg::rows(&**tx, &sql, &[&app.uuid(), &Json(tags)]).await?;
    for formation in rows.iter().map(of_row) {
        event(tx, &formation);
    }
    Ok(())
}

/// Stops all of a formation. Answers whether there was one.
pub(crate) async fn delete(tx: &mut Tx<'_>, app: AppId, release: ReleaseId) -> Result<bool> {
    let sql = format!(
        "UPDATE formations SET processes = '{{}}', updated_at = now(), deleted_at = now() \
         WHERE app_id = $1 AND release_id = $2 AND deleted_at IS NULL RETURNING {COLUMNS}"
    );
    let row = pg::row_opt(&**tx, &sql, &[&app.uuid(), &release.uuid()]).await?;
    let gone = row.as_ref().map(of_row);
    if let Some(formation) = &gone {
        event(tx, formation);
    }
    Ok(gone.is_some())
}

fn event(tx: &mut Tx<'_>, formation: &Formation) {
    tx.event(formation.app, "scale_request", formation.release, formation);
}

/// As [`super::begun`]; a formation goes by two ids.
async fn begun(
    db: &impl GenericClient,
    rows: &[Row],
    before: Option<(AppId, ReleaseId)>,
) -> Result<()> {
    let Some((app, release)) = before.filter(|_| rows.is_empty()) else { return Ok(()) };
    let sql = "SELECT 1 FROM formations WHERE app_id = $1 AND release_id = $2";
    match pg::row_opt(db, sql, &[&app.uuid(), &release.uuid()]).await? {
        Some(_) => Ok(()),
        None => Err(super::begin_again()),
    }
}

/// A page of the formations of an app, newest first.
pub(crate) async fn page_of_app(
    db: &impl GenericClient,
    app: AppId,
    page: Page,
) -> Result<Vec<Formation>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM formations WHERE app_id = $3 AND deleted_at IS NULL \
         AND ($1::uuid IS NULL OR (created_at, release_id) < \
             (SELECT created_at, release_id FROM formations WHERE app_id = $3 AND release_id = $1)) \
         ORDER BY created_at DESC, release_id DESC LIMIT $2"
    );
    let rows = pg::rows(db, &sql, &[&page.before, &page.limit, &app.uuid()]).await?;
    begun(db, &rows, page.before.map(|release| (app, release.into()))).await?;
    Ok(rows.iter().map(of_row).collect())
}

/// The keys of a page of formations, newest first: of those that are live, or also the deleted ones if `since` is given
/// and they changed since; with `active` only of those with processes.
pub(crate) async fn page_of_keys(
    db: &impl GenericClient,
    since: Option<Timestamp>,
    active: bool,
    page: Page<(AppId, ReleaseId)>,
) -> Result<Vec<(AppId, ReleaseId)>> {
    let sql = "SELECT app_id, release_id FROM formations \
               WHERE (updated_at >= $1 OR ($1::timestamptz IS NULL AND deleted_at IS NULL)) \
               AND (NOT $2 OR (deleted_at IS NULL AND EXISTS \
                   (SELECT 1 FROM jsonb_each(processes) WHERE value > '0'))) \
               AND ($3::uuid IS NULL OR (created_at, app_id, release_id) < \
                   (SELECT created_at, app_id, release_id FROM formations \
                    WHERE app_id = $3 AND release_id = $4)) \
               ORDER BY created_at DESC, app_id DESC, release_id DESC LIMIT $5";
    let (app, release) = page.before.map(|(app, release)| (app.uuid(), release.uuid())).unzip();
    let rows = pg::rows(db, sql, &[&since, &active, &app, &release, &page.limit]).await?;
    begun(db, &rows, page.before).await?;
    Ok(rows.iter().map(key).collect())
}

/// The keys of formations: all that are live, or also the deleted ones if `since` is given and they changed since.
pub(crate) async fn keys(
    db: &impl GenericClient,
    since: Option<Timestamp>,
) -> Result<Vec<(AppId, ReleaseId)>> {
    let sql = "SELECT app_id, release_id FROM formations \
               WHERE updated_at >= $1 OR ($1::timestamptz IS NULL AND deleted_at IS NULL) \
               ORDER BY updated_at DESC, app_id, release_id";
    let rows = pg::rows(db, sql, &[&since]).await?;
    Ok(rows.iter().map(key).collect())
}

fn key(row: &Row) -> (AppId, ReleaseId) {
    (row.get::<_, Uuid>(0).into(), row.get::<_, Uuid>(1).into())
}

/// A formation with all that is needed to run it. One that is deleted has no processes; none if there never was one.
pub(crate) async fn expand(
    db: &impl GenericClient,
    key: (AppId, ReleaseId),
) -> Result<Option<ExpandedFormation>> {
    Ok(expand_all(db, &[key]).await?.pop())
}

/// The same for many, in the order of their keys, with three statements.
pub(crate) async fn expand_all(
    db: &impl GenericClient,
    keys: &[(AppId, ReleaseId)],
) -> Result<Vec<ExpandedFormation>> {
    let apps: Vec<Uuid> = keys.iter().map(|(app, _)| app.uuid()).collect();
    let releases: Vec<Uuid> = keys.iter().map(|(_, release)| release.uuid()).collect();
    let sql = "SELECT a.app_id, a.name, a.meta, a.strategy, a.deploy_timeout, a.release_id, \
                      a.created_at, a.updated_at, a.volumes_by_name, f.release_id AS of_release, \
                      f.processes, f.tags, \
                      f.updated_at AS changed_at, \
                      f.deleted_at IS NULL AND a.deleted_at IS NULL AS live \
               FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS k (app_id, release_id, at) \
               JOIN formations f USING (app_id, release_id) JOIN apps a USING (app_id) ORDER BY k.at";
    let rows = pg::rows(db, sql, &[&apps, &releases]).await?;
    let found = releases::find_all(db, &releases).await?;
    let wanted: Vec<_> = found.values().flat_map(|release| release.artifacts.clone()).collect();
    let artifacts = artifacts::in_order(db, &wanted).await?;
    let artifacts: BTreeMap<_, _> = artifacts.iter().map(|one| (one.id, one)).collect();
    let expanded = rows.iter().filter_map(|row| {
        let release = found.get(&row.get::<_, Uuid>("of_release").into())?.clone();
        let mut processes: Counts = json(row, "processes");
        processes.retain(|_, count| *count > 0);
        if !row.get::<_, bool>("live") {
            processes.clear();
        }
        Some(ExpandedFormation {
            app: super::apps::of_row(row),
            artifacts: release
                .artifacts
                .iter()
                .filter_map(|id| artifacts.get(id).map(|artifact| (*artifact).clone()))
                .collect(),
            release,
            processes,
            tags: json(row, "tags"),
            updated_at: row.get("changed_at"),
        })
    });
    Ok(expanded.collect())
}
