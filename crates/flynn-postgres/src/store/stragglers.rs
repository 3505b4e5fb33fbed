//! Sessions that outlive their role.
//!
//! The server looks whether a role may log in before it shows the role's session. One that begins just then is not among those
//! that a removal ends, and goes on when its role is dropped.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Error};

/// A session that has begun to begin is waited for for this time, and then ended.
const BEGINNING_GRACE: Duration = Duration::from_secs(1);
/// Pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Ends the sessions of roles that are gone.
const END_GONE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE usesysid IS NOT NULL AND usename IS NULL";
/// Sessions that begin: after it has looked for the role, each locks its database or waits for that, and then is shown.
const BEGINNING: &str = "SELECT DISTINCT l.pid FROM pg_locks l \
     WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.pid IS NOT NULL \
         AND NOT EXISTS (SELECT FROM pg_stat_activity a \
             WHERE a.pid = l.pid AND (a.usesysid IS NOT NULL OR a.backend_type <> 'client backend'))";
const END: &str = "SELECT pg_terminate_backend($1)";

/// Ends the sessions of roles that are gone, as far as they are shown, and answers with how many there were.
pub(super) async fn end_shown(client: &Client) -> Result<usize, Error> {
    Ok(client.query(END_GONE, &[]).await?.len())
}

/// Ends the sessions of roles that are gone, those too that have begun and are not shown yet, and waits until they are gone.
/// Whoever calls this limits the time.
pub(super) async fn end_all(client: &Client) -> Result<(), Error> {
    let grace = Instant::now() + BEGINNING_GRACE;
    let mut beginning = beginning(client).await?;
    while end_shown(client).await? > 0 || !beginning.is_empty() {
        if Instant::now() >= grace {
            for pid in &beginning {
                client.query(END, &[pid]).await?;
            }
        }
        sleep(LOOK_INTERVAL).await;
        // What begins later finds no role.
        let still = self::beginning(client).await?;
        beginning.retain(|pid| still.contains(pid));
    }
    Ok(())
}

async fn beginning(client: &Client) -> Result<BTreeSet<i32>, Error> {
    Ok(client.query(BEGINNING, &[]).await?.iter().map(|row| row.get(0)).collect())
}
