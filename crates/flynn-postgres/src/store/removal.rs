//! Removes a database and its role, whatever other apps have done with that role.
//!
//! Every role may name every other: an app can grant what it has to another app's role, let it make things in its database,
//! or name it in its default privileges. As long as any database names a role, the server does not drop it; so each of
//! these is entered, and the role leaves it: what it made there is the database's owner's from then on, and what it was
//! allowed to do there is forgotten.
//!
//! The order is such that whatever interrupts it, the next removal does the rest: the role is dropped last, and until then
//! it lets nobody in.
//!
//! An app's database is entered as superuser, so nothing of that app's is run there. Only utility statements and questions to
//! the system's own tables are sent; what the app set for its database's sessions is overruled as the session begins; and event
//! triggers, which only a superuser can make, are off where the server can turn them off.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_postgres::{Client, error::SqlState, types::ToSql};
use tracing::{debug, warn};

use super::{
    Databases, StoreError,
    leaving::{leave, leave_here},
    session::BEGIN,
    stragglers,
};
use crate::domain::names::{DatabaseId, Name};

/// What all of this is, in an error.
pub(super) const DOING: &str = "removing a database";
/// So long a removal waits for sessions of other apps. Then those that keep it waiting are ended.
const PATIENCE: Duration = Duration::from_secs(4);
/// Pause between two looks for them.
const BLOCKED_INTERVAL: Duration = Duration::from_millis(100);
/// A server that is full or starts anew may be back within this time.
const CONNECT_AGAIN: Duration = Duration::from_secs(3);
/// Closing a database that was opened for the removal, when that has no time left.
const CLOSING: Duration = Duration::from_secs(2);
/// Another app may name the role again while it is being forgotten.
const ROUNDS: u32 = 8;
/// What an app set for its database's sessions, with the values that it has elsewhere, and these as startup options: the app
/// could have our session be a role of its own, read only, end at once, load what is not there, or find its functions for the
/// system's. Event triggers are off, where there is such a setting. What is no setting of the server's has no value and does
/// nothing.
const SETTINGS: &str = r"SELECT name, value, format('-c %s=%s', name, regexp_replace(value, '([\\\s])', '\\\1', 'g'))
     FROM (SELECT name, current_setting(name, true) AS value
           FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase,
                unnest(s.setconfig) AS setting, split_part(setting, '=', 1) AS name
           WHERE d.datname = $1 AND s.setrole = 0
           UNION ALL SELECT name, 'off' FROM pg_settings WHERE name = 'event_triggers') AS overruled
     WHERE value IS NOT NULL";
/// Fails if a setting does not take a value. It lasts for this statement.
const TRY_SETTING: &str = "SELECT set_config($1, $2, true)";
/// Whatever the app set.
const PATH: &str = "-c search_path=pg_catalog,pg_temp -c client_min_messages=error";
/// Has a role be let in nowhere. That it is being removed is in its term, which nobody but a superuser sets, not in its being
/// let in, which others look after too.
const SHUT: &str = "NOLOGIN VALID UNTIL '-infinity'";
/// Whether a role's removal has begun.
const BEGUN: &str = "SELECT FROM pg_roles WHERE rolname = $1 AND rolvaliduntil = '-infinity'";
/// Ends a role's sessions.
const END_SESSIONS: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
/// What a comment on a role says of a database that is open only until the role has left it, before that database's number.
/// No app comments on roles.
const OPENED: &str = "is being removed; opened for that: database ";
/// The database that is so open.
const OPENED_FOR: &str = "SELECT quote_ident(d.datname) FROM pg_roles r JOIN pg_shdescription s ON s.objoid = r.oid, pg_database d \
     WHERE r.rolname = $1 AND s.classoid = 'pg_authid'::regclass AND s.description = $2::text || d.oid::text";
/// Where a role is named, but for what all databases share. The removal of one (-2) may have begun and not ended.
const NAMED_IN: &str = "SELECT DISTINCT d.datname::text, quote_ident(d.datname), d.oid, d.datallowconn, d.datconnlimit = -2 \
     FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid JOIN pg_roles r ON r.oid = s.refobjid \
     WHERE s.refclassid = 'pg_authid'::regclass AND r.rolname = $1";
/// A database that a role owns besides its own.
const ANOTHER: &str = "SELECT d.datname::text FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba \
     WHERE r.rolname = $1 AND d.datname <> $2 LIMIT 1";
/// Ends what keeps a session waiting, but for the system's own, and with it whatever else has locked what the role owns in
/// that session's database: it would be next, and who comes back with another lock could keep the removal waiting at each.
const END_BLOCKERS: &str = "WITH blocked AS MATERIALIZED (\
         SELECT pg_blocking_pids(pid) AS pids, datid FROM pg_stat_activity WHERE pid = $1) \
     SELECT pg_terminate_backend(a.pid) \
     FROM blocked, pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid \
     WHERE NOT r.rolsuper AND blocked.pids <> '{}' AND (a.pid = ANY (blocked.pids) OR a.pid IN ( \
         SELECT l.pid FROM pg_locks l JOIN pg_shdepend d ON d.dbid = l.database AND d.objid = l.relation \
             JOIN pg_roles o ON o.oid = d.refobjid \
         WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' \
             AND o.rolname = $2 AND l.database = blocked.datid))";

/// A database that names the role.
#[derive(Debug)]
struct Named {
    name: String,
    quoted: String,
    oid: u32,
    lets_in: bool,
    is_half_removed: bool,
}

/// The removal of one role, watched by a session that has nothing else to do.
#[derive(Debug, Clone, Copy)]
struct Removal<'a> {
    databases: &'a Databases,
    watch: &'a Client,
    role: &'a Name,
    patient_until: Instant,
    deadline: Instant,
}

/// Removes a database and its role. Both may be gone already.
pub(super) async fn remove(
    databases: &Databases,
    watch: &Client,
    id: &DatabaseId,
    deadline: Instant,
) -> Result<(), StoreError> {
    let pair: [&(dyn ToSql + Sync); 2] = [&id.user.to_string(), &id.database.to_string()];
    let another = watch.query_opt(ANOTHER, &pair).await.map_err(refused)?;
    if let Some(another) = another {
        return Err(StoreError::OwnsAnother { role: id.user.to_string(), owned: another.get(0) });
    }
    let patient_until = Instant::now() + PATIENCE;
    let removal = Removal { databases, watch, role: &id.user, patient_until, deadline };
    let here = &databases.superuser;
    // As the one before may have been killed.
    removal.close_again().await?;
    removal.work(here, async |worker| drop_database(worker, id).await).await?;
    for _ in 0..ROUNDS {
        removal.leave_databases().await?;
        match removal.work(here, async |worker| drop_role(worker, &id.user).await).await {
            // It was named again meanwhile.
            Err(StoreError::Refused { source, .. })
                if source.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {}
            dropped => {
                dropped?;
                return removal.work(here, end_stragglers).await;
            }
        }
    }
    Err(StoreError::TimedOut { doing: DOING })
}

/// Whether the removal of a role has begun, and not ended.
pub(super) async fn has_begun(client: &Client, role: &Name) -> Result<bool, tokio_postgres::Error> {
    Ok(client.query_opt(BEGUN, &[&role.to_string()]).await?.is_some())
}

/// Keeps the role out, from everywhere, and removes the database.
async fn drop_database(worker: &Client, id: &DatabaseId) -> Result<(), StoreError> {
    let (role, database) = (id.user.quoted(), id.database.quoted());
    if exists(worker, "SELECT FROM pg_roles WHERE rolname = $1", &id.user).await? {
        // A session of its own may hold what the change waits for, and another may have begun before it.
        let name = id.user.to_string();
        worker.execute(END_SESSIONS, &[&name]).await.map_err(refused)?;
        worker.batch_execute(&format!("ALTER ROLE {role} {SHUT}")).await.map_err(refused)?;
        worker.execute(END_SESSIONS, &[&name]).await.map_err(refused)?;
    }
    // Its owner may have said so, and the server drops no template.
    let template = "SELECT FROM pg_database WHERE datname = $1 AND datistemplate";
    if exists(worker, template, &id.database).await? {
        let no_template = format!("ALTER DATABASE {database} IS_TEMPLATE false");
        worker.batch_execute(&no_template).await.map_err(refused)?;
    }
    let drop = format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)");
    worker.batch_execute(&drop).await.map_err(refused)
}

/// Forgets what the role is allowed on what all databases share, and drops it, both or neither.
async fn drop_role(worker: &Client, role: &Name) -> Result<(), StoreError> {
    if !exists(worker, "SELECT FROM pg_roles WHERE rolname = $1", role).await? {
        return Ok(());
    }
    worker
        .batch_execute(&format!("{}; DROP ROLE {}", leave(role).join(";"), role.quoted()))
        .await
        .map_err(refused)
}

/// There is none of the role's sessions when this has ended.
async fn end_stragglers(worker: &Client) -> Result<(), StoreError> {
    stragglers::end_all(worker).await.map_err(refused)
}

async fn exists(client: &Client, sql: &str, name: &Name) -> Result<bool, StoreError> {
    Ok(client.query_opt(sql, &[&name.to_string()]).await.map_err(refused)?.is_some())
}

pub(super) fn refused(source: tokio_postgres::Error) -> StoreError {
    StoreError::Refused { doing: DOING, source }
}

impl Removal<'_> {
    /// Has the role leave every database. One in which that fails holds up no other.
    async fn leave_databases(&self) -> Result<(), StoreError> {
        let role = self.role.to_string();
        // One that was beginning was not shown before.
        self.watch.execute(END_SESSIONS, &[&role]).await.map_err(refused)?;
        let named = self.watch.query(NAMED_IN, &[&role]).await.map_err(refused)?;
        let mut failed = Ok(());
        for row in named {
            if Instant::now() >= self.deadline {
                return Err(StoreError::TimedOut { doing: DOING });
            }
            let named = Named {
                name: row.get(0),
                quoted: row.get(1),
                oid: row.get(2),
                lets_in: row.get(3),
                is_half_removed: row.get(4),
            };
            if let Err(err) = self.leave_database(&named).await {
                let error = &err as &dyn std::error::Error;
                warn!(error, database = named.name, %role, "role {role} stays in database {} for now", named.name);
                failed = Err(err);
            }
        }
        failed
    }

    async fn leave_database(&self, named: &Named) -> Result<(), StoreError> {
        let Named { name, quoted, oid, .. } = named;
        if named.is_half_removed {
            // Its files are gone, or half of them. Nothing but its removal can be done with it.
            return self.say(format!("DROP DATABASE IF EXISTS {quoted} WITH (FORCE)")).await;
        }
        if named.lets_in {
            return self.leave_open_database(name).await;
        }
        // Its owner can close it even to the superuser.
        let role = self.role.quoted();
        let opened = self
            .say(format!(
                "COMMENT ON ROLE {role} IS '{OPENED}{oid}'; \
                 ALTER DATABASE {quoted} ALLOW_CONNECTIONS true"
            ))
            .await;
        let left = match opened {
            Ok(()) => self.leave_open_database(name).await,
            // It may be open nevertheless.
            Err(err) => Err(err),
        };
        let closed = self.close_again().await;
        left.and(closed)
    }

    async fn leave_open_database(&self, name: &str) -> Result<(), StoreError> {
        let mut there = self.databases.superuser.clone();
        let overruling = self.overruling(name).await.map_err(refused)?;
        there.dbname(name).options(format!("{BEGIN}{overruling} {PATH}"));
        match self.work(&there, async |worker| leave_here(worker, self.role).await).await {
            // It was removed meanwhile.
            Err(StoreError::TurnedAway { source, .. })
                if source.code() == Some(&SqlState::INVALID_CATALOG_NAME) =>
            {
                Ok(())
            }
            left => left,
        }
    }

    /// Closes the database that was opened for the role's removal, if there is one. Until that is done the role is not dropped.
    async fn close_again(&self) -> Result<(), StoreError> {
        let pair: [&(dyn ToSql + Sync); 2] = [&self.role.to_string(), &OPENED];
        let opened = self.watch.query_opt(OPENED_FOR, &pair).await.map_err(refused)?;
        let Some(opened) = opened else { return Ok(()) };
        let (role, opened): (_, &str) = (self.role.quoted(), opened.get(0));
        // The removal's time may be over.
        let closing = Self { deadline: self.deadline.max(Instant::now() + CLOSING), ..*self };
        closing
            .say(format!(
                "ALTER DATABASE {opened} ALLOW_CONNECTIONS false; COMMENT ON ROLE {role} IS NULL"
            ))
            .await
    }

    /// Does something outside of apps' databases.
    async fn say(&self, sql: String) -> Result<(), StoreError> {
        let here = &self.databases.superuser;
        self.work(here, async |worker| worker.batch_execute(&sql).await.map_err(refused)).await
    }

    /// The startup options by which what an app set for its database's sessions does not count.
    async fn overruling(&self, database: &str) -> Result<String, tokio_postgres::Error> {
        let mut options = String::new();
        for row in self.watch.query(SETTINGS, &[&database]).await? {
            let [name, value, option]: [&str; 3] = [row.get(0), row.get(1), row.get(2)];
            match self.watch.query_one(TRY_SETTING, &[&name, &value]).await {
                Ok(_) => options.extend([" ", option]),
                // It shows no value that it takes, as `seed`. The server would not let us in with that.
                Err(err) if err.as_db_error().is_some() => {
                    debug!(database, "what database {database} sets for {name} counts: {err}");
                }
                Err(err) => return Err(err),
            }
        }
        Ok(options)
    }

    /// Does something in a session of its own. Sessions that block it after the removal's patience has run
    /// out are ended.
    async fn work(
        &self,
        session: &tokio_postgres::Config,
        work: impl AsyncFnOnce(&Client) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let within = CONNECT_AGAIN.min(left / 2);
        let limits = (within, left - within);
        self.databases
            .with(session, limits, DOING, async |worker| {
                let pid = worker.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await;
                let pid = pid.map_err(refused)?.get(0);
                tokio::select! {
                    biased;
                    done = work(worker) => done,
                    failed = self.end_blockers(pid) => Err(refused(failed)),
                }
            })
            .await
    }

    async fn end_blockers(&self, pid: i32) -> tokio_postgres::Error {
        let role = self.role.to_string();
        sleep_until(self.patient_until).await;
        loop {
            if let Err(err) = self.watch.execute(END_BLOCKERS, &[&pid, &role]).await {
                return err;
            }
            sleep(BLOCKED_INTERVAL).await;
        }
    }
}
