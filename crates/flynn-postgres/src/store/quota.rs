//! Keeps apps' databases within their quota: the server's disk is the control plane's too.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::{Client, Row, types::ToSql};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    CONNECT_WITHIN, Databases, STATEMENT, StoreError, removal::has_begun, session::driven,
    stragglers,
};
use crate::domain::{
    names::Name,
    quota::{Access, access},
};

/// What all of this is, in an error.
const DOING: &str = "measuring the databases";
/// Apps' databases, whose names are those of their roles; what the cluster made for itself is not limited. Left out
/// is one whose removal has begun: its `datconnlimit` is -2 (being dropped), or its role is marked as expired.
const APPS: &str = "SELECT d.datname::text \
     FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba AND r.rolname = d.datname \
     WHERE NOT r.rolsuper AND d.datconnlimit <> -2 AND r.rolvaliduntil IS DISTINCT FROM '-infinity'";
/// What one of them takes; nothing if its files are gone. It costs a look at each of them.
const SIZE: &str = "SELECT pg_database_size(d.oid) AS size, r.rolcanlogin, \
         coalesce('default_transaction_read_only=on' = ANY(s.setconfig), false) AS reads \
     FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba \
     LEFT JOIN pg_db_role_setting s ON s.setrole = r.oid AND s.setdatabase = 0 \
     WHERE d.datname = $1";
/// The server gives a statement up before we give up the server.
const LIMIT: &str = "SET statement_timeout = '10s'";

impl Databases {
    /// Measures all databases again and again, until the daemon stops.
    pub(crate) async fn keep_quota(self, most: u64, every: Duration, stop: CancellationToken) {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let measured = stop.run_until_cancelled(self.enforce_quota(most)).await;
            if let Some(Err(err)) = measured {
                warn!(
                    error = &err as &dyn std::error::Error,
                    "databases could not be measured yet"
                );
            }
        }
    }

    /// One after the other, each for itself: however many there are, and whatever is the matter with one of them.
    async fn enforce_quota(&self, most: u64) -> Result<(), StoreError> {
        let (client, connection) = self.connect(&self.superuser, CONNECT_WITHIN).await?;
        let work = async {
            bounded(client.batch_execute(LIMIT)).await?;
            // Nobody makes a role meanwhile, so that a new one's sessions are not taken for those of one that is gone.
            if let Ok(_one) = self.one_at_a_time.try_lock() {
                bounded(stragglers::end_shown(&client)).await?;
            }
            for row in bounded(client.query(APPS, &[])).await? {
                let Ok(name) = row.get::<_, &str>(0).parse::<Name>() else { continue };
                match self.enforce_on(&client, &name, most).await {
                    Err(StoreError::Refused { source, .. }) if source.as_db_error().is_some() => {
                        warn!(
                            error = &source as &dyn std::error::Error,
                            database = %name, "database {name} could not be measured yet"
                        );
                    }
                    done => done?,
                }
            }
            Ok(())
        };
        tokio::select! {
            biased;
            done = work => done,
            ended = driven(connection) => Err(refused(ended)),
        }
    }

    async fn enforce_on(&self, client: &Client, role: &Name, most: u64) -> Result<(), StoreError> {
        let of_database: &[&(dyn ToSql + Sync)] = &[&role.to_string()];
        let Some(row) = bounded(client.query_opt(SIZE, of_database)).await? else { return Ok(()) };
        let Some(size) = row.get::<_, Option<i64>>("size") else { return Ok(()) };
        let (size, now) = (u64::try_from(size).unwrap_or_default(), access_of(&row));
        let then = access(size, most, now);
        if then != now {
            let _one = self.one_at_a_time.lock().await;
            if bounded(has_begun(client, role)).await? {
                return Ok(());
            }
            bounded(set_access(client, role, then)).await?;
            tell(role, size, most, then);
        }
        Ok(())
    }
}

async fn bounded<T>(
    step: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, StoreError> {
    match timeout(STATEMENT, step).await {
        Ok(done) => done.map_err(refused),
        Err(_) => Err(StoreError::TimedOut { doing: DOING }),
    }
}

fn refused(source: tokio_postgres::Error) -> StoreError {
    StoreError::Refused { doing: DOING, source }
}

fn access_of(row: &Row) -> Access {
    match (row.get::<_, bool>("rolcanlogin"), row.get::<_, bool>("reads")) {
        (false, _) => Access::None,
        (true, true) => Access::ReadOnly,
        (true, false) => Access::Full,
    }
}

/// Says what a role may do, and ends its sessions, which would go on as they began.
async fn set_access(
    client: &Client,
    role: &Name,
    access: Access,
) -> Result<(), tokio_postgres::Error> {
    let (login, reads) = match access {
        Access::Full => ("LOGIN", "RESET default_transaction_read_only"),
        Access::ReadOnly => ("LOGIN", "SET default_transaction_read_only = on"),
        Access::None => ("NOLOGIN", "SET default_transaction_read_only = on"),
    };
    let (role, name) = (role.quoted(), role.literal());
    let change = format!("ALTER ROLE {role} {login}; ALTER ROLE {role} {reads}");
    client.batch_execute(&change).await?;
    let end =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {name}");
    client.batch_execute(&end).await
}

fn tell(role: &Name, size: u64, most: u64, access: Access) {
    let (size, most) = (size >> 20, most >> 20);
    let said = match access {
        Access::Full => "may be written again",
        Access::ReadOnly => "is read-only now: delete and vacuum, or raise DATABASE_LEN_MAX",
        Access::None => "was written on and is closed now: raise DATABASE_LEN_MAX",
    };
    warn!(database = %role, "database {role} has {size} MiB of at most {most} MiB and {said}");
}
