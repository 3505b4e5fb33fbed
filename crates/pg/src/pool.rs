//! The pool, and migrations.

use std::{future::Future, time::Duration};

use deadpool_postgres::{Client, Manager, ManagerConfig, RecyclingMethod, Runtime};
use refinery::Runner;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_postgres::NoTls;
use tracing::{info, warn};

use crate::{Config, Error, Session};

/// How long a caller waits for a server that is restarting.
const PATIENCE: Duration = Duration::from_secs(4);
/// Pause between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause between two tries to migrate.
const MIGRATE_PAUSE: Duration = Duration::from_millis(300);
/// Longest time a step of giving out a connection takes.
const STEP: Duration = Duration::from_secs(3);
/// The lock that lets one of several daemons migrate at a time.
const MIGRATION_LOCK: i64 = 0x0066_6c79_6e6e;

/// Connections to one database, once it is migrated. Clones share them.
#[derive(Debug, Clone)]
pub struct Pool {
    config: Config,
    pool: deadpool_postgres::Pool,
    migrated: watch::Sender<bool>,
}

impl Pool {
    /// A pool of at most `size` connections; none is made yet.
    pub fn new(config: Config, size: usize) -> Self {
        let manager = Manager::from_config(
            config.limited(),
            NoTls,
            ManagerConfig { recycling_method: RecyclingMethod::Verified },
        );
        let pool = deadpool_postgres::Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(STEP))
            .recycle_timeout(Some(STEP))
            .wait_timeout(Some(STEP))
            .build()
            .expect("a pool with timeouts has its runtime");
        Self { config, pool, migrated: watch::Sender::new(false) }
    }

    /// Where it connects to.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A connection. Waits a little for migrations and for a server that is just restarting.
    pub async fn client(&self) -> Result<Client, Error> {
        let deadline = Instant::now() + PATIENCE;
        let mut migrated = self.migrated.subscribe();
        timeout_at(deadline, migrated.wait_for(|&migrated| migrated))
            .await
            .map_err(|err| Error::Unavailable(err.into()))?
            .expect("the pool itself holds the sender");
        loop {
            match self.pool.get().await {
                Ok(client) => return Ok(client),
                Err(_) if Instant::now() + PAUSE < deadline => sleep(PAUSE).await,
                Err(err) => return Err(err.into()),
            }
        }
    }

    /// A connection that is closed when it is dropped, however that comes about: what its session holds (a lock, a setting)
    /// goes with it, and comes to no other caller.
    pub async fn session(&self) -> Result<Session, Error> {
        Ok(Client::take(self.client().await?))
    }

    /// Runs the migrations, trying until it has succeeded; clients are given out from then on.
    pub async fn migrate(&self, runner: Runner) {
        let mut said = false;
        while let Err(err) = self.try_migrate(&runner).await {
            if !std::mem::replace(&mut said, true) {
                warn!(error = &err as &dyn std::error::Error, "waiting for {:?}", self.config);
            }
            sleep(MIGRATE_PAUSE).await;
        }
        info!("the database is ready: {:?}", self.config);
        self.migrated.send_replace(true);
    }

    async fn try_migrate(&self, runner: &Runner) -> Result<(), Error> {
        let (mut client, connection) = self.config.unlimited().connect(NoTls).await?;
        driven(connection, async move {
            client.execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
            // The lock goes with the connection.
            runner.run_async(&mut client).await.map(drop).map_err(Error::Migration)
        })
        .await
    }
}

/// Works on a connection while driving it.
pub(crate) async fn driven<T>(
    connection: impl Future<Output = Result<(), tokio_postgres::Error>>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => done,
        ended = connection => match ended {
            Err(err) => Err(err.into()),
            Ok(()) => work.await,
        },
    }
}
