//! Deployments, and the lease on the one that is worked.

use api::{
    controller::{App, Deployment, DeploymentStatus, META_BUILD, NewDeployment, NewHead},
    id::{AppId, DeploymentId, ReleaseId},
};
use jiff::Timestamp;
use pg::{GenericClient, Row, types::Json};
use uuid::Uuid;

use super::{Counts, Page, Tx, json, read, spelt, stored};
use crate::error::{Error, Result};

/// A worker that has not renewed its lease for so long has lost it.
const LEASE_SECONDS: f64 = 6.0;

const COLUMNS: &str = "deployment_id, app_id, old_release, new_release, strategy, status, \
     processes, deploy_timeout, error, log, created_at, finished_at";
const WORK: &str =
    "original, stopped, head, going_back, started_at, step_at, clock_timestamp() AS now";

/// A deployment as its worker sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Work {
    /// The deployment.
    pub(crate) deployment: Deployment,
    /// What a failure restores of the old formation.
    pub(crate) original: Counts,
    /// How many jobs of the new release were told to stop.
    pub(crate) stopped: u32,
    /// The repository head it makes current.
    pub(crate) head: Option<NewHead>,
    /// Why it goes back, once it does.
    pub(crate) going_back: Option<String>,
    /// Begun at.
    pub(crate) started_at: Timestamp,
    /// Its last step was at.
    pub(crate) step_at: Timestamp,
    /// Now, by the same clock.
    pub(crate) now: Timestamp,
}

fn of_row(row: &Row) -> Deployment {
    Deployment {
        id: row.get::<_, Uuid>("deployment_id").into(),
        app: row.get::<_, Uuid>("app_id").into(),
        old_release: row.get::<_, Option<Uuid>>("old_release").map(Into::into),
        new_release: row.get::<_, Uuid>("new_release").into(),
        strategy: read(row.get("strategy")),
        status: read(row.get("status")),
        processes: json(row, "processes"),
        deploy_timeout: super::count(row, "deploy_timeout"),
        error: error_of(row.get("error"), row.get("log")),
        created_at: row.get("created_at"),
        finished_at: row.get("finished_at"),
    }
}

/// The sentence, and what the job that is the cause wrote last.
fn error_of(sentence: Option<String>, log: Option<String>) -> Option<String> {
    match (sentence, log) {
        (Some(sentence), Some(log)) => Some(format!("{sentence}. Its last log lines:\n{log}")),
        (sentence, _) => sentence,
    }
}

fn work_of_row(row: &Row) -> Work {
    Work {
        deployment: of_row(row),
        original: json(row, "original"),
        stopped: super::count(row, "stopped"),
        head: row.get::<_, Option<Json<NewHead>>>("head").map(|head| head.0),
        going_back: row.get("going_back"),
        started_at: row.get("started_at"),
        step_at: row.get("step_at"),
        now: row.get("now"),
    }
}

/// A deployment.
pub(crate) async fn find(db: &impl GenericClient, id: DeploymentId) -> Result<Deployment> {
    let sql = format!("SELECT {COLUMNS} FROM deployments WHERE deployment_id = $1");
    let row = pg::row_opt(db, &sql, &[&id.uuid()]).await?;
    row.as_ref().map(of_row).ok_or_else(|| Error::missing("deployment", id))
}

/// The deployments of an app, newest first.
pub(crate) async fn of_app(
    db: &impl GenericClient,
    app: AppId,
    page: Page,
) -> Result<Vec<Deployment>> {
    // An error may hold the last words of a job; the list has their beginning, the deployment itself has all.
    let columns = COLUMNS.replace(" error,", " left(error, 1000) AS error,");
    let sql = format!(
        "SELECT {columns} FROM deployments WHERE app_id = $1 \
         AND ($2::uuid IS NULL OR (created_at, deployment_id) < \
             (SELECT created_at, deployment_id FROM deployments WHERE deployment_id = $2)) \
         ORDER BY created_at DESC, deployment_id DESC LIMIT $3"
    );
    let rows = pg::rows(db, &sql, &[&app.uuid(), &page.before, &page.limit]).await?;
    super::begun(db, &rows, ("deployments", "deployment_id"), page.before).await?;
    Ok(rows.iter().map(of_row).collect())
}

/// The deployment of an app with this id, if there is one.
pub(crate) async fn find_opt(
    db: &impl GenericClient,
    id: DeploymentId,
) -> Result<Option<Deployment>> {
    let sql = format!("SELECT {COLUMNS} FROM deployments WHERE deployment_id = $1");
    Ok(pg::row_opt(db, &sql, &[&id.uuid()]).await?.as_ref().map(of_row))
}

/// The last deployment of a release of this app that came from this build.
pub(crate) async fn of_build(
    db: &impl GenericClient,
    app: AppId,
    build: &str,
) -> Result<Option<Deployment>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM deployments WHERE app_id = $1 AND new_release IN \
             (SELECT release_id FROM releases WHERE app_id = $1 AND meta ->> $2 = $3) \
         ORDER BY created_at DESC LIMIT 1"
    );
    let row = pg::row_opt(db, &sql, &[&app.uuid(), &META_BUILD, &build]).await?;
    Ok(row.as_ref().map(of_row))
}

/// What an app is on its way to: the last of its deployments that is not over and does not go back, and the head that it
/// makes current.
pub(crate) async fn newest_wish(
    tx: &Tx<'_>,
    app: AppId,
) -> Result<Option<(Deployment, Option<NewHead>)>> {
    let sql = format!(
        "SELECT {COLUMNS}, head FROM deployments WHERE app_id = $1 \
             AND (status = 'pending' OR (status = 'running' AND going_back IS NULL)) \
         ORDER BY status = 'pending' DESC LIMIT 1"
    );
    let row = pg::row_opt(&**tx, &sql, &[&app.uuid()]).await?;
    let head = |row: &Row| row.get::<_, Option<Json<NewHead>>>("head").map(|head| head.0);
    Ok(row.map(|row| (of_row(&row), head(&row))))
}

/// Queues a deployment that will end with `target`, as far as that is known. One that waits already is replaced. The
/// caller has locked the app.
pub(crate) async fn insert(
    tx: &mut Tx<'_>,
    app: &App,
    new: &NewDeployment,
    target: &Counts,
) -> Result<Deployment> {
    let id = new.deployment.unwrap_or_else(DeploymentId::random);
    fail_those(
        tx,
        app.id,
        "status = 'pending'",
        &format!("replaced by the newer deployment {id} before it began"),
    )
    .await?;
    let sql = format!(
        "INSERT INTO deployments (deployment_id, app_id, old_release, new_release, strategy, \
             deploy_timeout, head, processes, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp()) RETURNING {COLUMNS}"
    );
    let row = pg::row(
        &**tx,
        &sql,
        &[
            &id.uuid(),
            &app.id.uuid(),
            &app.release.map(ReleaseId::uuid),
            &new.id.uuid(),
            &spelt(&app.strategy),
            &super::int(app.deploy_timeout),
            &new.head.as_ref().map(Json),
            &Json(target),
        ],
    )
    .await?;
    Ok(tell(tx, &row))
}

/// Fails everything of an app that is not over.
pub(crate) async fn fail_all(tx: &mut Tx<'_>, app: AppId, error: &str) -> Result<()> {
    fail_those(tx, app, "status IN ('pending', 'running')", error).await
}

async fn fail_those(tx: &mut Tx<'_>, app: AppId, which: &str, error: &str) -> Result<()> {
    let sql = format!(
        "UPDATE deployments SET status = 'failed', error = $2, finished_at = clock_timestamp() \
         WHERE app_id = $1 AND {which} RETURNING {COLUMNS}"
    );
    for row in pg::rows(&**tx, &sql, &[&app.uuid(), &error]).await? {
        tell(tx, &row);
    }
    Ok(())
}

fn tell(tx: &mut Tx<'_>, row: &Row) -> Deployment {
    let deployment = of_row(row);
    // What a process wrote last may hold secrets, and events are kept for long.
    let told = Deployment { error: row.get("error"), ..deployment.clone() };
    tx.event(deployment.app, "deployment", deployment.id, &told);
    deployment
}

/// Deployments nobody works that could be worked: one that waits with none before it, one whose worker is gone.
pub(crate) async fn unworked(db: &impl GenericClient) -> Result<Vec<(DeploymentId, AppId)>> {
    let sql = "SELECT deployment_id, app_id FROM deployments d \
         WHERE (status = 'running' AND (lease_until IS NULL OR lease_until < clock_timestamp())) \
            OR (status = 'pending' AND NOT EXISTS \
                (SELECT 1 FROM deployments r WHERE r.app_id = d.app_id AND r.status = 'running')) \
         ORDER BY created_at LIMIT 100";
    let rows = pg::rows(db, sql, &[]).await?;
    let key = |row: &Row| (row.get::<_, Uuid>(0).into(), row.get::<_, Uuid>(1).into());
    Ok(rows.iter().map(key).collect())
}

/// A deployment that can be claimed now, with the head it makes current. The caller has locked the app.
pub(crate) async fn claimable(
    tx: &Tx<'_>,
    id: DeploymentId,
) -> Result<Option<(Deployment, Option<NewHead>)>> {
    let sql = format!(
        "SELECT {COLUMNS}, head FROM deployments d WHERE deployment_id = $1 AND ( \
            (status = 'running' AND (lease_until IS NULL OR lease_until < clock_timestamp())) \
         OR (status = 'pending' AND NOT EXISTS \
             (SELECT 1 FROM deployments r WHERE r.app_id = d.app_id AND r.status = 'running'))) \
         FOR UPDATE"
    );
    let row = pg::row_opt(&**tx, &sql, &[&id.uuid()]).await?;
    let head = |row: &Row| row.get::<_, Option<Json<NewHead>>>("head").map(|head| head.0);
    Ok(row.map(|row| (of_row(&row), head(&row))))
}

/// Begins a deployment that waited: from here its target is its own.
pub(crate) async fn begin(
    tx: &mut Tx<'_>,
    id: DeploymentId,
    old_release: Option<ReleaseId>,
    target: &Counts,
    original: &Counts,
) -> Result<()> {
    let sql = format!(
        "UPDATE deployments SET status = 'running', old_release = $2, processes = $3, \
             original = $4, started_at = clock_timestamp(), step_at = clock_timestamp() \
         WHERE deployment_id = $1 RETURNING {COLUMNS}"
    );
    let old_release = old_release.map(ReleaseId::uuid);
    let row =
        pg::row(&**tx, &sql, &[&id.uuid(), &old_release, &Json(target), &Json(original)]).await?;
    tell(tx, &row);
    Ok(())
}

/// Takes the lease: whoever had it can write no more. Answers with its number.
pub(crate) async fn claim(tx: &Tx<'_>, id: DeploymentId) -> Result<i64> {
    let sql = "UPDATE deployments SET lease = lease + 1, \
                   lease_until = clock_timestamp() + make_interval(secs => $2) \
               WHERE deployment_id = $1 RETURNING lease";
    Ok(pg::row(&**tx, sql, &[&id.uuid(), &LEASE_SECONDS]).await?.get(0))
}

/// Renews the lease and answers with the deployment, if the lease is still held and the deployment not over.
pub(crate) async fn renew(tx: &Tx<'_>, id: DeploymentId, lease: i64) -> Result<Option<Work>> {
    let sql = format!(
        "UPDATE deployments SET lease_until = clock_timestamp() + make_interval(secs => $3) \
         WHERE deployment_id = $1 AND lease = $2 AND status = 'running' RETURNING {COLUMNS}, {WORK}"
    );
    let row = pg::row_opt(&**tx, &sql, &[&id.uuid(), &lease, &LEASE_SECONDS]).await?;
    Ok(row.as_ref().map(work_of_row))
}

/// Gives the lease up, so that another worker goes on with its next look.
pub(crate) async fn give_up(db: &impl GenericClient, id: DeploymentId, lease: i64) -> Result<()> {
    let sql = "UPDATE deployments SET lease_until = NULL WHERE deployment_id = $1 AND lease = $2";
    pg::execute(db, sql, &[&id.uuid(), &lease]).await?;
    Ok(())
}

/// Notes that a step was taken, by which so many jobs of the new release will stop.
pub(crate) async fn stepped(tx: &Tx<'_>, id: DeploymentId, stopped: u32) -> Result<()> {
    let sql = "UPDATE deployments SET step_at = clock_timestamp(), stopped = stopped + $2 \
               WHERE deployment_id = $1";
    pg::execute(&**tx, sql, &[&id.uuid(), &super::int(stopped)]).await?;
    Ok(())
}

/// The deployment of an app that is being worked. Nothing changes it while the app is locked.
pub(crate) async fn running(db: &impl GenericClient, app: AppId) -> Result<Option<Work>> {
    let sql = format!(
        "SELECT {COLUMNS}, {WORK} FROM deployments WHERE app_id = $1 AND status = 'running'"
    );
    Ok(pg::row_opt(db, &sql, &[&app.uuid()]).await?.as_ref().map(work_of_row))
}

/// Changes what a running deployment shall end with, and what its failure restores.
pub(crate) async fn retarget(
    tx: &mut Tx<'_>,
    id: DeploymentId,
    target: &Counts,
    original: &Counts,
) -> Result<()> {
    let sql = format!(
        "UPDATE deployments SET processes = $2, original = $3 WHERE deployment_id = $1 \
         RETURNING {COLUMNS}"
    );
    let row = pg::row(&**tx, &sql, &[&id.uuid(), &Json(target), &Json(original)]).await?;
    tell(tx, &row);
    Ok(())
}

/// From here on a running deployment goes back, for this reason; the first one that is given counts.
pub(crate) async fn go_back(
    tx: &mut Tx<'_>,
    id: DeploymentId,
    why: &str,
    log: Option<&str>,
) -> Result<()> {
    let sql = format!(
        "UPDATE deployments SET going_back = $2, log = $3, step_at = clock_timestamp() \
         WHERE deployment_id = $1 AND status = 'running' AND going_back IS NULL RETURNING {COLUMNS}"
    );
    let (why, log) = (stored(why), log.map(stored));
    if let Some(row) = pg::row_opt(&**tx, &sql, &[&id.uuid(), &why, &log]).await? {
        tell(tx, &row);
    }
    Ok(())
}

/// Ends a deployment.
pub(crate) async fn finish(tx: &mut Tx<'_>, id: DeploymentId, error: Option<&str>) -> Result<()> {
    let status = match error {
        None => DeploymentStatus::Complete,
        Some(_) => DeploymentStatus::Failed,
    };
    let sql = format!(
        "UPDATE deployments SET status = $2, error = $3, finished_at = clock_timestamp(), \
             lease_until = NULL WHERE deployment_id = $1 RETURNING {COLUMNS}"
    );
    let error = error.map(stored);
    let row = pg::row(&**tx, &sql, &[&id.uuid(), &spelt(&status), &error]).await?;
    tell(tx, &row);
    Ok(())
}
