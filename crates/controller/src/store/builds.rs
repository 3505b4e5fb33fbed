//! Builds that run or wait.

use api::{controller::TURN_TTL_SECONDS, id::AppId};
use pg::GenericClient;

use crate::error::Result;

/// Notes that a build runs or waits. Answers with how many came before it and are still there.
pub(crate) async fn ahead(db: &impl GenericClient, id: &str, app: AppId) -> Result<u32> {
    let sql = "DELETE FROM builds WHERE id <> $1 AND seen_at < now() - make_interval(secs => $2)";
    pg::execute(db, sql, &[&id, &f64::from(TURN_TTL_SECONDS)]).await?;
    let sql = "INSERT INTO builds (id, app_id) VALUES ($1, $2) \
               ON CONFLICT (id) DO UPDATE SET seen_at = now()";
    pg::execute(db, sql, &[&id, &app.uuid()]).await?;
    let sql = "SELECT count(*) AS ahead FROM builds \
               WHERE place < (SELECT place FROM builds WHERE id = $1)";
    let row = pg::row_opt(db, sql, &[&id]).await?;
    let ahead: i64 = row.map_or(0, |row| row.get("ahead"));
    Ok(u32::try_from(ahead).unwrap_or(u32::MAX))
}

/// Forgets a build.
pub(crate) async fn remove(db: &impl GenericClient, id: &str) -> Result<()> {
    pg::execute(db, "DELETE FROM builds WHERE id = $1", &[&id]).await?;
    Ok(())
}
