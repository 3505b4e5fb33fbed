//! The only place with SQL.

mod leaving;
mod quota;
mod removal;
mod session;
mod stragglers;

use std::{sync::Arc, time::Duration};

use api::controller::Provisioned;
use daemon::{Lifetime, WorkPanicked};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};
use tokio_postgres::Client;
use tracing::{info, warn};

pub(crate) use session::is_passing;

use crate::{
    config::ApiConfig,
    domain::{
        SUPERUSER,
        names::{self, DatabaseId, Name},
    },
};

/// A server that is restarted is back within this time.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Making or removing a database copies or unlinks some megabytes.
const STATEMENT: Duration = Duration::from_secs(12);
/// Removing, within the same request, what could not be made. In all it is less than the daemon has to end, 28 s: 12 s and
/// 2 s to cut that off, 2 s to connect, and 5 s and 6 s.
const UNDO: Duration = Duration::from_secs(5);
/// If it could not be removed then, pause until the next attempt.
const UNDO_PAUSE: Duration = Duration::from_secs(15);
/// Attempts in all: half an hour and more.
const UNDO_ATTEMPTS: u32 = 120;
/// The server is asked for pings once in this time.
const PING_INTERVAL: Duration = Duration::from_millis(500);
/// Most connections of a database's role: a few processes with a pool each. The server takes 300 in all.
const CONNECTIONS: u32 = 40;
/// Longest time a transaction of an app may be left open: it holds locks and keeps rows from being tidied.
const IDLE_TRANSACTION: &str = "10min";
/// What else a role's sessions begin with. A query that sorts more than this on disk is refused, and cannot say otherwise;
/// one that runs longer than an hour has to.
const SESSION: [(&str, &str); 4] = [
    ("idle_in_transaction_session_timeout", IDLE_TRANSACTION),
    ("statement_timeout", "1h"),
    ("work_mem", "4MB"),
    ("temp_file_limit", "1GB"),
];

/// Why a database could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection.
    #[error("PostgreSQL at {at} cannot be reached; try again")]
    Unreachable {
        /// Host and port.
        at: String,
        /// Why.
        #[source]
        source: Option<tokio_postgres::Error>,
    },
    /// The server is there, and lets us not in.
    #[error("PostgreSQL at {at} refuses the connection: {said}")]
    TurnedAway {
        /// Host and port.
        at: String,
        /// What the server said.
        said: String,
        /// The same.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Too slow.
    #[error("{doing} took too long; try again")]
    TimedOut {
        /// What.
        doing: &'static str,
    },
    /// Refused.
    #[error("{doing} failed")]
    Refused {
        /// What.
        doing: &'static str,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Its removal has begun and not ended: what is left of it is nobody's.
    #[error("database {0} is being removed: remove it to the end first")]
    BeingRemoved(Name),
    /// The role is not this database's alone.
    #[error(
        "role {role} owns database {owned} as well: give that to another owner, or remove it first"
    )]
    OwnsAnother {
        /// The role.
        role: String,
        /// What it owns besides.
        owned: String,
    },
    /// The daemon is told to stop, and this was not begun.
    #[error("flynn-postgres-api is stopping; try again")]
    Stopping,
    /// Nobody would learn of it.
    #[error("whoever asked for the database has gone")]
    AskerGone,
    /// A fault of this daemon.
    #[error("working on a database failed")]
    Panicked(#[from] WorkPanicked),
}

impl StoreError {
    /// Nothing was begun, as there was no connection.
    fn is_before_all(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TurnedAway { .. })
    }

    /// The server did not do it.
    fn refused(doing: &'static str) -> impl Fn(tokio_postgres::Error) -> Self {
        move |source| Self::Refused { doing, source }
    }
}

/// The databases of the server.
#[derive(Debug, Clone)]
pub struct Databases {
    superuser: tokio_postgres::Config,
    host: String,
    port: u16,
    lifetime: Lifetime,
    /// The last answer to a ping, and when it was had.
    last_ping: Arc<Mutex<Option<Ping>>>,
    /// Held while a database is made or removed: a superuser's connection each.
    one_at_a_time: Arc<Mutex<()>>,
}

/// When the server was asked, and what came of it.
type Ping = (Instant, Result<(), Arc<StoreError>>);

impl Databases {
    /// Those of the server that is configured.
    pub fn new(config: &ApiConfig, lifetime: &Lifetime) -> Self {
        let mut superuser = tokio_postgres::Config::new();
        superuser
            .host(&config.host)
            .port(config.pg_port)
            .user(SUPERUSER)
            .password(&config.password)
            .dbname("postgres")
            .application_name("flynn-postgres-api")
            .options(session::BEGIN)
            .connect_timeout(session::ATTEMPT);
        Self {
            superuser,
            host: config.host.clone(),
            port: config.pg_port,
            lifetime: lifetime.clone(),
            last_ping: Arc::default(),
            one_at_a_time: Arc::default(),
        }
    }

    /// Makes a role and a database that is its own. Asked again with the same `wish`, it is the same database, with a new
    /// password: what was made for an answer that was lost is not left over. Without a wish nobody can ask again: what was
    /// not made whole, or whose answer nobody waits for, is undone.
    pub async fn create(
        &self,
        wish: Option<Name>,
        is_waited_for: impl Fn() -> bool,
    ) -> Result<Provisioned, StoreError> {
        let is_unnamed = wish.is_none();
        let is_lost = || is_unnamed && !is_waited_for();
        let id = match wish {
            Some(name) => DatabaseId { user: name.clone(), database: name },
            None => DatabaseId { user: random(), database: random() },
        };
        let password = random();
        let _turn = self.turn().await?;
        if is_lost() {
            return Err(StoreError::AskerGone);
        }
        let (doing, limits) = ("making a database", (CONNECT_WITHIN, STATEMENT));
        let made = self.with(&self.superuser, limits, doing, async |client| {
            let refused = StoreError::refused(doing);
            hold(client, &id).await.map_err(&refused)?;
            if removal::has_begun(client, &id.user).await.map_err(&refused)? {
                return Err(StoreError::BeingRemoved(id.database.clone()));
            }
            make(client, &id, &password).await.map_err(&refused)
        });
        match made.await {
            Ok(()) if !is_lost() => {}
            made => {
                if is_unnamed && !made.as_ref().is_err_and(StoreError::is_before_all) {
                    self.undo(id).await;
                }
                return Err(made.err().unwrap_or(StoreError::AskerGone));
            }
        }
        info!(database = %id.database, "made database {}", id.database);
        let env = names::env(&id, &password, &self.host, self.port);
        Ok(Provisioned { id: id.to_string(), env })
    }

    /// Removes a database and its role. Both may be gone already.
    pub async fn delete(&self, id: &DatabaseId) -> Result<(), StoreError> {
        let _turn = self.turn().await?;
        self.remove(id, (CONNECT_WITHIN, STATEMENT)).await?;
        info!(database = %id.database, "removed database {}", id.database);
        Ok(())
    }

    /// Waits in line. Once the daemon stops nobody else has a turn: what has begun is finished, and nothing begins.
    async fn turn(&self) -> Result<OwnedMutexGuard<()>, StoreError> {
        let stop = self.lifetime.stop();
        let turn = stop.run_until_cancelled(self.one_at_a_time.clone().lock_owned()).await;
        turn.filter(|_| !stop.is_cancelled()).ok_or(StoreError::Stopping)
    }

    async fn remove(
        &self,
        id: &DatabaseId,
        limits: (Duration, Duration),
    ) -> Result<(), StoreError> {
        let (within, limit) = limits;
        // What is done within this is bounded by it, and is cut off by itself first.
        let limits = (within, limit + 2 * session::ATTEMPT);
        self.with(&self.superuser, limits, removal::DOING, async |client| {
            let deadline = Instant::now() + limit;
            hold(client, id).await.map_err(StoreError::refused(removal::DOING))?;
            removal::remove(self, client, id, deadline).await
        })
        .await
    }

    /// Removes what was made for nobody: at once, and if that fails, in the background until it is done.
    async fn undo(&self, id: DatabaseId) {
        let Err(err) = self.remove(&id, (Duration::ZERO, UNDO)).await else { return };
        let error = &err as &dyn std::error::Error;
        warn!(error, database = %id.database, "what was made of database {} is not removed yet", id.database);
        let databases = self.clone();
        self.lifetime.spawn_request(async move {
            for _ in 0..UNDO_ATTEMPTS {
                tokio::time::sleep(UNDO_PAUSE).await;
                if databases.delete(&id).await.is_ok() {
                    return;
                }
            }
            warn!(database = %id.database, "what was made of database {} is left over", id.database);
        });
    }

    /// Whether the server answered within the last moments. However many ask, one connection at a time is made for them.
    pub async fn ping(&self) -> Result<(), Arc<StoreError>> {
        let mut last = self.last_ping.lock().await;
        if let Some((at, answer)) = last.as_ref()
            && at.elapsed() < PING_INTERVAL
        {
            return answer.clone();
        }
        let (doing, limits) = ("asking the server", (Duration::ZERO, STATEMENT));
        let answer = self
            .with(&self.superuser, limits, doing, async |client| {
                client.batch_execute("SELECT 1").await.map_err(StoreError::refused(doing))
            })
            .await
            .map_err(Arc::new);
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

/// Has this session be the only one that makes or removes this database, also of daemons that were killed.
async fn hold(client: &Client, id: &DatabaseId) -> Result<(), tokio_postgres::Error> {
    let name = id.database.literal();
    client.batch_execute(&format!("SELECT pg_advisory_lock(hashtextextended({name}, 0))")).await
}

/// Makes the role and the database, or what is missing of them.
async fn make(
    client: &Client,
    id: &DatabaseId,
    password: &Name,
) -> Result<(), tokio_postgres::Error> {
    let (user, database) = (id.user.quoted(), id.database.quoted());
    let secret = password.literal();
    // The password must not reach the server's log, not even by an error.
    client.batch_execute("SET log_min_error_statement = panic; SET log_statement = none").await?;
    // Whatever database there is of the server's own, or is made by hand: it is not everybody's.
    client
        .batch_execute(
            "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; \
             REVOKE CONNECT ON DATABASE template1 FROM PUBLIC",
        )
        .await?;
    let there = "SELECT 1 FROM pg_roles WHERE rolname = $1";
    let verb = match client.query_opt(there, &[&id.user.to_string()]).await? {
        Some(_) => "ALTER",
        None => "CREATE",
    };
    let limits = format!("CONNECTION LIMIT {CONNECTIONS} PASSWORD {secret}");
    client.batch_execute(&format!("{verb} ROLE {user} LOGIN {limits}")).await?;
    for (setting, value) in SESSION {
        client.batch_execute(&format!("ALTER ROLE {user} SET {setting} = '{value}'")).await?;
    }
    let there = "SELECT 1 FROM pg_database WHERE datname = $1";
    if client.query_opt(there, &[&id.database.to_string()]).await?.is_none() {
        let create = format!("CREATE DATABASE {database} OWNER {user} TEMPLATE template0");
        client.batch_execute(&create).await?;
    }
    client.batch_execute(&format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC")).await
}

fn random() -> Name {
    Name::of(rand::random())
}
