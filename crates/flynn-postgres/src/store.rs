//! The only place with SQL.

mod quota;

use std::{future::Future, sync::Arc, time::Duration};

use api::controller::Provisioned;
use daemon::WorkPanicked;
use tokio::{sync::Mutex, time::Instant};
use tokio_postgres::{Client, NoTls};
use tracing::{info, warn};

use crate::{
    config::ApiConfig,
    domain::{
        SUPERUSER,
        names::{self, DatabaseId, Name},
    },
};

/// A server that is restarted is back within this time.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// One attempt to connect.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Pause between two.
const PAUSE: Duration = Duration::from_millis(200);
/// Making or removing a database copies or unlinks some megabytes.
const STATEMENT: Duration = Duration::from_secs(15);
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
    /// Too slow.
    #[error("{doing} took longer than {STATEMENT:?}; try again")]
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
    /// A fault of this daemon.
    #[error("working on a database failed")]
    Panicked(#[from] WorkPanicked),
}

/// The databases of the server.
#[derive(Debug, Clone)]
pub struct Databases {
    superuser: tokio_postgres::Config,
    host: String,
    port: u16,
    /// The last answer to a ping, and when it was had.
    last_ping: Arc<Mutex<Option<Ping>>>,
    /// Held while a database is made or removed: a superuser's connection each.
    one_at_a_time: Arc<Mutex<()>>,
}

/// When the server was asked, and what came of it.
type Ping = (Instant, Result<(), Arc<StoreError>>);

impl Databases {
    /// Those of the server that is configured.
    pub fn new(config: &ApiConfig) -> Self {
        let mut superuser = tokio_postgres::Config::new();
        superuser
            .host(&config.host)
            .port(config.pg_port)
            .user(SUPERUSER)
            .password(&config.password)
            .dbname("postgres")
            .application_name("flynn-postgres-api")
            .connect_timeout(ATTEMPT);
        Self {
            superuser,
            host: config.host.clone(),
            port: config.pg_port,
            last_ping: Arc::default(),
            one_at_a_time: Arc::default(),
        }
    }

    /// Makes a role and a database that is its own. Asked again with the same `wish`, it is the same database, with a new
    /// password: what was made for an answer that was lost is not left over.
    pub async fn create(&self, wish: Option<Name>) -> Result<Provisioned, StoreError> {
        let is_unnamed = wish.is_none();
        let id = match wish {
            Some(name) => DatabaseId { user: name.clone(), database: name },
            None => DatabaseId { user: random(), database: random() },
        };
        let password = random();
        let _one = self.one_at_a_time.lock().await;
        self.with(CONNECT_WITHIN, "making a database", async |client| {
            let made = make(client, &id, &password).await;
            if made.is_err() && is_unnamed {
                undo(client, &id).await;
            }
            made
        })
        .await?;
        info!(database = %id.database, "made database {}", id.database);
        let env = names::env(&id, &password, &self.host, self.port);
        Ok(Provisioned { id: id.to_string(), env })
    }

    /// Removes a database and its role. Both may be gone already.
    pub async fn delete(&self, id: &DatabaseId) -> Result<(), StoreError> {
        let _one = self.one_at_a_time.lock().await;
        self.with(CONNECT_WITHIN, "removing a database", async |client| drop(client, id).await)
            .await?;
        info!(database = %id.database, "removed database {}", id.database);
        Ok(())
    }

    /// Whether the server answered within the last moments. However many ask, one connection at a time is made for them.
    pub async fn ping(&self) -> Result<(), Arc<StoreError>> {
        let mut last = self.last_ping.lock().await;
        if let Some((at, answer)) = last.as_ref()
            && at.elapsed() < PING_INTERVAL
        {
            return answer.clone();
        }
        let answer = self
            .with(Duration::ZERO, "asking the server", async |client| {
                client.batch_execute("SELECT 1").await
            })
            .await
            .map_err(Arc::new);
        *last = Some((Instant::now(), answer.clone()));
        answer
    }

    /// Connects, trying for some time, and does something with the connection.
    async fn with<T>(
        &self,
        within: Duration,
        doing: &'static str,
        work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreError> {
        let (client, connection) = self.connect(within).await?;
        let work = async {
            tokio::select! {
                biased;
                done = work(&client) => done,
                ended = driven(connection) => Err(ended),
            }
        };
        match tokio::time::timeout(STATEMENT, work).await {
            Ok(done) => done.map_err(|source| StoreError::Refused { doing, source }),
            Err(_) => Err(StoreError::TimedOut { doing }),
        }
    }

    async fn connect(
        &self,
        within: Duration,
    ) -> Result<(Client, impl Future<Output = Result<(), tokio_postgres::Error>> + use<>), StoreError>
    {
        let deadline = Instant::now() + within;
        loop {
            let source = match tokio::time::timeout(ATTEMPT, self.superuser.connect(NoTls)).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(source)) => Some(source),
                Err(_) => None,
            };
            if Instant::now() >= deadline {
                let at = format!("{}:{}", self.host, self.port);
                return Err(StoreError::Unreachable { at, source });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Drives a connection. One that ends without an error leaves its error to the statement that is under way.
async fn driven(
    connection: impl Future<Output = Result<(), tokio_postgres::Error>>,
) -> tokio_postgres::Error {
    match connection.await {
        Err(err) => err,
        Ok(()) => std::future::pending().await,
    }
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

async fn undo(client: &Client, id: &DatabaseId) {
    if let Err(err) = drop(client, id).await {
        warn!(error = %err, database = %id.database, "what was made of database {} is left over", id.database);
    }
}

async fn drop(client: &Client, id: &DatabaseId) -> Result<(), tokio_postgres::Error> {
    let (user, database) = (id.user.quoted(), id.database.quoted());
    client.batch_execute(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)")).await?;
    client.batch_execute(&format!("DROP ROLE IF EXISTS {user}")).await
}

fn random() -> Name {
    Name::of(rand::random())
}
