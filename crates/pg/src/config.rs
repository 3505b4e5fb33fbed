//! Where the database is.

use std::{fmt, time::Duration};

/// Longest time to connect to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A server that acknowledges nothing for so long is gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// Limits the server keeps for each connection: a statement, a wait for a lock, a transaction left alone.
const LIMITS: &str = "-c statement_timeout=15s -c lock_timeout=10s \
     -c idle_in_transaction_session_timeout=30s";

/// Where the database is, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// Host name or address; resolved at each connect.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Database.
    pub database: String,
    /// Who we are, as the server's views show it.
    pub application: String,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, user, database, .. } = self;
        write!(f, "postgres://{user}@{host}:{port}/{database}")
    }
}

impl Config {
    /// Without limits on statements, for migrations and listeners.
    pub(crate) fn unlimited(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host(&self.host)
            .port(self.port)
            .user(&self.user)
            .password(&self.password)
            .dbname(&self.database)
            .application_name(&self.application)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(3))
            .keepalives_retries(3);
        config
    }

    pub(crate) fn limited(&self) -> tokio_postgres::Config {
        let mut config = self.unlimited();
        config.options(LIMITS);
        config
    }
}
