//! Jobs, as the controller was told of them.

use std::{collections::BTreeSet, time::Duration};

use api::{
    controller::{Job, JobState},
    host::EndReason,
    id::{AppId, JobId, ReleaseId},
};
use jiff::Timestamp;
use pg::{GenericClient, Row};
use uuid::Uuid;

use super::{Page, Tx, int, read, spelt, stored};
use crate::{
    domain::deploy::Reported,
    error::{Error, Result},
};

const COLUMNS: &str = "job_id, cluster_id, host_id, app_id, release_id, type, state, args, \
     exit_status, host_error, run_at, restarts, created_at, updated_at, end_reason";
const ENDED: &str = "state IN ('down', 'crashed')";

fn of_row(row: &Row) -> Job {
    Job {
        id: row.get("cluster_id"),
        uuid: row.get::<_, Uuid>("job_id").into(),
        host_id: row.get("host_id"),
        app: row.get::<_, Uuid>("app_id").into(),
        release: row.get::<_, Uuid>("release_id").into(),
        kind: row.get("type"),
        state: read(row.get("state")),
        args: row.get("args"),
        exit_status: row.get("exit_status"),
        host_error: row.get("host_error"),
        end_reason: row.get::<_, Option<String>>("end_reason").map(read),
        run_at: row.get("run_at"),
        restarts: super::count(row, "restarts"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    }
}

/// Records what a job does. What was known already makes no event, and what was told late is not recorded: a job that
/// ended is only there again if its host started it again, or was thought lost. What is known of another app's job stays.
pub(crate) async fn put(tx: &mut Tx<'_>, job: &Job) -> Result<Job> {
    let sql = format!(
        "INSERT INTO jobs ({COLUMNS}, first_restarts) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, \
             $10, $11, $12, coalesce($13, now()), now(), $14, $12) \
         ON CONFLICT (job_id) DO UPDATE SET cluster_id = $2, host_id = $3, state = $7, \
             exit_status = $9, host_error = $10, run_at = $11, restarts = $12, updated_at = now(), \
             end_reason = $14 \
         WHERE jobs.app_id = $4 AND NOT (jobs.{ENDED} AND $7 NOT IN ('down', 'crashed') AND $12 <= jobs.restarts \
                    AND coalesce(jobs.end_reason, 'host_lost') NOT IN ('host_lost', 'refused')) \
           AND (jobs.cluster_id, jobs.host_id, jobs.state, jobs.exit_status, jobs.host_error, \
                jobs.run_at, jobs.restarts, jobs.end_reason) \
             IS DISTINCT FROM ($2, $3, $7, $9, $10, $11, $12, $14) \
         RETURNING {COLUMNS}"
    );
    let changed = pg::row_opt(
        &**tx,
        &sql,
        &[
            &job.uuid.uuid(),
            &job.id,
            &job.host_id.as_deref().map(stored),
            &job.app.uuid(),
            &job.release.uuid(),
            &stored(&job.kind),
            &spelt(&job.state),
            &job.args.iter().map(|arg| stored(arg)).collect::<Vec<_>>(),
            &job.exit_status,
            &job.host_error.as_deref().map(stored),
            &job.run_at,
            &int(job.restarts),
            &job.created_at,
            &job.end_reason.as_ref().map(spelt),
        ],
    )
    .await?;
    match changed {
        Some(row) => {
            let job = of_row(&row);
            // Arguments hold passwords now and then, and events are kept.
            tx.event(job.app, "job", &job.id, &Job { args: Vec::new(), ..job.clone() });
            Ok(job)
        }
        None => find(&**tx, job.app, job.uuid).await,
    }
}

/// A job that shall end with its client, and of which nobody has said lately that it has one.
#[derive(Debug, Clone)]
pub(crate) struct Unattended {
    /// The job.
    pub(crate) id: JobId,
    /// Where it runs.
    pub(crate) host: String,
    /// Since when.
    pub(crate) since: Timestamp,
}

/// Says that these jobs have a client for at least this time.
pub(crate) async fn attach(db: &impl GenericClient, ids: &[JobId], lease: Duration) -> Result<()> {
    let ids: Vec<_> = ids.iter().map(|id| id.uuid()).collect();
    let sql = "UPDATE jobs SET attached_until = clock_timestamp() + make_interval(secs => $2) \
               WHERE job_id = ANY($1)";
    pg::execute(db, sql, &[&ids, &lease.as_secs_f64()]).await?;
    Ok(())
}

/// A job needs no client, or has ended.
pub(crate) async fn detach(db: &impl GenericClient, id: JobId) -> Result<()> {
    let sql = "UPDATE jobs SET attached_until = NULL WHERE job_id = $1";
    pg::execute(db, sql, &[&id.uuid()]).await?;
    Ok(())
}

/// The jobs whose client nobody has vouched for in time.
pub(crate) async fn unattended(db: &impl GenericClient) -> Result<Vec<Unattended>> {
    let sql = format!(
        "SELECT job_id, host_id, attached_until FROM jobs \
         WHERE attached_until < clock_timestamp() AND host_id IS NOT NULL AND NOT {ENDED} \
         ORDER BY attached_until LIMIT 100"
    );
    let unattended = |row: &Row| Unattended {
        id: row.get::<_, Uuid>("job_id").into(),
        host: row.get("host_id"),
        since: row.get("attached_until"),
    };
    Ok(pg::rows(db, &sql, &[]).await?.iter().map(unattended).collect())
}

/// Says that this controller stops a job without a client, unless somebody has vouched for it since it was looked up. Should
/// it not come to the end, others do it after this time.
pub(crate) async fn take_unattended(
    db: &impl GenericClient,
    job: &Unattended,
    lease: Duration,
) -> Result<bool> {
    let sql = format!(
        "UPDATE jobs SET attached_until = clock_timestamp() + make_interval(secs => $3) \
         WHERE job_id = $1 AND attached_until = $2 AND NOT {ENDED}"
    );
    let taken = pg::execute(db, &sql, &[&job.id.uuid(), &job.since, &lease.as_secs_f64()]).await?;
    Ok(taken > 0)
}

/// A job that was recorded before it was ordered has not come to be. One of which its host has told more is as it says.
/// Returns whether that changed anything.
pub(crate) async fn never_started(
    tx: &mut Tx<'_>,
    id: JobId,
    reason: EndReason,
    why: &str,
) -> Result<bool> {
    let sql = format!(
        "UPDATE jobs SET state = $2, end_reason = $3, host_error = $4, updated_at = now() \
         WHERE job_id = $1 AND state = $5 RETURNING {COLUMNS}"
    );
    let (starting, crashed) = (spelt(&JobState::Starting), spelt(&JobState::Crashed));
    let why = stored(why);
    let values: [&(dyn pg::types::ToSql + Sync); 5] =
        [&id.uuid(), &crashed, &spelt(&reason), &why, &starting];
    let Some(row) = pg::row_opt(&**tx, &sql, &values).await? else { return Ok(false) };
    let job = of_row(&row);
    tx.event(job.app, "job", &job.id, &Job { args: Vec::new(), ..job.clone() });
    Ok(true)
}

/// Which jobs of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// All that are kept.
    All,
    /// Those that have not ended.
    Active,
}

/// A page of the jobs of an app, newest first. The order is one that nothing changes: a job that ends while somebody reads
/// page after page moves no other.
pub(crate) async fn of_app(
    db: &impl GenericClient,
    app: AppId,
    of: Of,
    page: Page,
) -> Result<Vec<Job>> {
    let which = match of {
        Of::All => String::new(),
        Of::Active => format!("AND NOT {ENDED}"),
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM jobs WHERE app_id = $1 {which} AND ($2::uuid IS NULL OR \
             (created_at, job_id) < (SELECT created_at, job_id FROM jobs WHERE job_id = $2)) \
         ORDER BY created_at DESC, job_id DESC LIMIT $3"
    );
    let rows = pg::rows(db, &sql, &[&app.uuid(), &page.before, &page.limit]).await?;
    super::begun(db, &rows, ("jobs", "job_id"), page.before).await?;
    Ok(rows.iter().map(of_row).collect())
}

/// The same for who asks once and reads no other page: those that have not ended come first.
pub(crate) async fn active_first(
    db: &impl GenericClient,
    app: AppId,
    limit: i64,
) -> Result<Vec<Job>> {
    let page = Page { before: None, limit };
    let mut jobs = of_app(db, app, Of::Active, page).await?;
    let active: BTreeSet<JobId> = jobs.iter().map(|job| job.uuid).collect();
    let others = of_app(db, app, Of::All, page).await?.into_iter();
    jobs.extend(others.filter(|job| !active.contains(&job.uuid)));
    jobs.truncate(usize::try_from(limit).unwrap_or_default());
    Ok(jobs)
}

/// Jobs whose logs an app's log consists of: on a host, of one type or one job if asked, those that have not ended first.
pub(crate) async fn logged(
    db: &impl GenericClient,
    app: AppId,
    kind: Option<&str>,
    job: Option<JobId>,
    limit: i64,
) -> Result<Vec<Job>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM jobs WHERE app_id = $1 AND host_id IS NOT NULL \
             AND ($2::text IS NULL OR type = $2) AND ($3::uuid IS NULL OR job_id = $3) \
         ORDER BY NOT {ENDED} DESC, created_at DESC, job_id DESC LIMIT $4"
    );
    let job = job.map(JobId::uuid);
    let rows = pg::rows(db, &sql, &[&app.uuid(), &kind, &job, &limit]).await?;
    Ok(rows.iter().map(of_row).collect())
}

/// Jobs that have not ended, newest first.
pub(crate) async fn active(db: &impl GenericClient, page: Page) -> Result<Vec<Job>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM jobs WHERE NOT {ENDED} AND ($1::uuid IS NULL OR \
             (created_at, job_id) < (SELECT created_at, job_id FROM jobs WHERE job_id = $1)) \
         ORDER BY created_at DESC, job_id DESC LIMIT $2"
    );
    let rows = pg::rows(db, &sql, &[&page.before, &page.limit]).await?;
    super::begun(db, &rows, ("jobs", "job_id"), page.before).await?;
    Ok(rows.iter().map(of_row).collect())
}

/// The one-off jobs of an app that have not ended, in any order: who does not get to all of them gets to others the next
/// time.
pub(crate) async fn one_off(db: &impl GenericClient, app: AppId) -> Result<Vec<Job>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM jobs WHERE app_id = $1 AND type = '' AND NOT {ENDED} ORDER BY random()"
    );
    Ok(pg::rows(db, &sql, &[&app.uuid()]).await?.iter().map(of_row).collect())
}

/// As many of each host as of any other, and not the same each time: those of a host that is gone, or that does not do what
/// it is asked, keep no others from being looked at.
const FAIRLY: &str = "ORDER BY row_number() OVER (PARTITION BY host_id ORDER BY random())";

/// Some of the jobs without a formation that have not ended, of apps that are deleted.
pub(crate) async fn left_over(db: &impl GenericClient) -> Result<Vec<Job>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM jobs WHERE type = '' AND NOT {ENDED} AND host_id IS NOT NULL \
         AND app_id IN (SELECT app_id FROM apps WHERE deleted_at IS NOT NULL) \
         {FAIRLY} LIMIT 1000"
    );
    Ok(pg::rows(db, &sql, &[]).await?.iter().map(of_row).collect())
}

/// One-off jobs in state `$1` for more than `$2` seconds, with a host. By the database's clock, which wrote the times.
const LONG_IN_STATE: &str = "type = '' AND state = $1 AND host_id IS NOT NULL \
     AND updated_at < clock_timestamp() - make_interval(secs => $2)";

/// Whether a job is one of [`long_starting`].
pub(crate) async fn is_long_starting(
    db: &impl GenericClient,
    id: JobId,
    time: Duration,
) -> Result<bool> {
    let sql = format!("SELECT 1 FROM jobs WHERE {LONG_IN_STATE} AND job_id = $3");
    let starting = spelt(&JobState::Starting);
    let found = pg::row_opt(db, &sql, &[&starting, &time.as_secs_f64(), &id.uuid()]).await?;
    Ok(found.is_some())
}

/// Whether a job has ended.
pub(crate) async fn has_ended(db: &impl GenericClient, id: JobId) -> Result<bool> {
    let sql = format!("SELECT 1 FROM jobs WHERE job_id = $1 AND {ENDED}");
    Ok(pg::row_opt(db, &sql, &[&id.uuid()]).await?.is_some())
}

/// Some of the one-off jobs that have been starting for longer than this time, with their hosts.
pub(crate) async fn long_starting(
    db: &impl GenericClient,
    time: Duration,
) -> Result<Vec<(String, JobId)>> {
    let sql = format!("SELECT host_id, job_id FROM jobs WHERE {LONG_IN_STATE} {FAIRLY} LIMIT 1000");
    let rows = pg::rows(db, &sql, &[&spelt(&JobState::Starting), &time.as_secs_f64()]).await?;
    let job = |row: &Row| -> (String, JobId) {
        (row.get("host_id"), row.get::<_, Uuid>("job_id").into())
    };
    Ok(rows.iter().map(job).collect())
}

/// How many jobs of an app's formations have not ended.
pub(crate) async fn unfinished(db: &impl GenericClient, app: AppId) -> Result<i64> {
    let sql = format!(
        "SELECT count(*) FROM jobs \
         WHERE app_id = $1 AND NOT {ENDED} AND state <> 'pending' AND host_id IS NOT NULL"
    );
    Ok(pg::row(db, &sql, &[&app.uuid()]).await?.get(0))
}

/// The jobs of these releases that have not ended, or have since then.
pub(crate) async fn of_releases(
    db: &impl GenericClient,
    app: AppId,
    releases: &[ReleaseId],
    since: Timestamp,
) -> Result<Vec<Reported>> {
    let releases: Vec<Uuid> = releases.iter().map(|id| id.uuid()).collect();
    let sql = format!(
        "SELECT {COLUMNS}, recorded_at, first_restarts FROM jobs \
         WHERE app_id = $1 AND release_id = ANY($2) AND type <> '' \
         AND (NOT {ENDED} OR updated_at >= $3) ORDER BY updated_at, job_id"
    );
    let rows = pg::rows(db, &sql, &[&app.uuid(), &releases, &since]).await?;
    let reported = |row: &Row| Reported {
        job: of_row(row),
        since: row.get("recorded_at"),
        first_restarts: super::count(row, "first_restarts"),
    };
    Ok(rows.iter().map(reported).collect())
}

/// A job of an app.
pub(crate) async fn find(db: &impl GenericClient, app: AppId, job: JobId) -> Result<Job> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE app_id = $1 AND job_id = $2");
    let row = pg::row_opt(db, &sql, &[&app.uuid(), &job.uuid()]).await?;
    row.as_ref().map(of_row).ok_or_else(|| Error::missing("job", job))
}
