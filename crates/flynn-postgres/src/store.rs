//! The only place with SQL.

use std::{future::Future, time::Duration};

use api::controller::Provisioned;
use tokio::time::Instant;
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
}

/// The databases of the server.
#[derive(Debug, Clone)]
pub struct Databases {
    superuser: tokio_postgres::Config,
    host: String,
    port: u16,
}

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
        Self { superuser, host: config.host.clone(), port: config.pg_port }
    }

    /// Makes a role and a database that is its own.
    pub async fn create(&self) -> Result<Provisioned, StoreError> {
        let id = DatabaseId { user: random(), database: random() };
        let password = random();
        let (user, database) = (id.user.quoted(), id.database.quoted());
        let secret = password.literal();
        self.with(CONNECT_WITHIN, "making a database", async |client| {
            // The password must not reach the server's log, not even by an error.
            client
                .batch_execute("SET log_min_error_statement = panic; SET log_statement = none")
                .await?;
            client.batch_execute(&format!("CREATE ROLE {user} LOGIN PASSWORD {secret}")).await?;
            let made = async {
                let create = format!("CREATE DATABASE {database} OWNER {user} TEMPLATE template0");
                client.batch_execute(&create).await?;
                client
                    .batch_execute(&format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC"))
                    .await
            };
            if let Err(err) = made.await {
                undo(client, &id).await;
                return Err(err);
            }
            Ok(())
        })
        .await?;
        info!(database = %id.database, "made database {}", id.database);
        let env = names::env(&id, &password, &self.host, self.port);
        Ok(Provisioned { id: id.to_string(), env })
    }

    /// Removes a database and its role. Both may be gone already.
    pub async fn delete(&self, id: &DatabaseId) -> Result<(), StoreError> {
        self.with(CONNECT_WITHIN, "removing a database", async |client| drop(client, id).await)
            .await?;
        info!(database = %id.database, "removed database {}", id.database);
        Ok(())
    }

    /// Whether the server answers, now.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.with(Duration::ZERO, "asking the server", async |client| {
            client.batch_execute("SELECT 1").await
        })
        .await
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
