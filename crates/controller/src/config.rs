//! Configuration.

use clap::Parser;
use daemon::auth::Keys;

/// Apps, releases, formations, deployments.
#[derive(Clone, Parser)]
#[command(version, about)]
pub struct Args {
    /// Port of the API.
    #[arg(long, env = "PORT", default_value_t = 3000)]
    port: u16,
    /// Keys that are accepted, separated by commas.
    #[arg(long, env = "AUTH_KEY", hide_env_values = true)]
    auth_key: String,
    /// Keys of gitreceived, separated by commas: they open only what a push needs.
    #[arg(long, env = "GITRECEIVE_KEY", hide_env_values = true, default_value = "")]
    gitreceive_key: String,
    /// Key of flynn-host and sampi.
    #[arg(long, env = "HOST_KEY", hide_env_values = true)]
    host_key: Option<String>,
    /// Key of strowger's API.
    #[arg(long, env = "STROWGER_KEY", hide_env_values = true)]
    strowger_key: Option<String>,
    /// Key of the Postgres provider.
    #[arg(long, env = "POSTGRES_API_KEY", hide_env_values = true)]
    postgres_api_key: Option<String>,
    /// Key of shelf.
    #[arg(long, env = "SHELF_KEY", hide_env_values = true)]
    shelf_key: Option<String>,
    /// Apps get the route `<app>.<this>`; none if empty.
    #[arg(long, env = "DEFAULT_ROUTE_DOMAIN", default_value = "")]
    default_route_domain: String,
    /// Builds of the whole cluster that run at the same time; the others wait in line.
    #[arg(long, env = "BUILDS_AT_ONCE", default_value_t = 3)]
    builds_at_once: u32,
    /// Seconds in which a removed resource can be restored; then its provider destroys it.
    #[arg(long, env = "RESOURCE_GRACE_SECONDS", default_value_t = 86_400)]
    resource_grace_seconds: u64,
    /// Releases of each app that are kept, besides those that run.
    #[arg(long, env = "KEEP_RELEASES", default_value_t = 10)]
    keep_releases: usize,
    /// Seconds that deleted apps, jobs that ended, and files that nothing names are kept: longer than any upload
    /// and any build may take.
    #[arg(long, env = "KEEP_UNUSED_SECONDS", default_value_t = 86_400)]
    keep_unused_seconds: u64,
    /// Seconds that events and ended deployments are kept.
    #[arg(long, env = "KEEP_EVENTS_SECONDS", default_value_t = 30 * 86_400)]
    keep_events_seconds: u64,
    /// Seconds that attached jobs and builds may go on after SIGTERM. The stop timeout of the process has to be longer.
    #[arg(long, env = "DRAIN_SECONDS", default_value_t = 5)]
    drain_seconds: u64,
    /// discoverd.
    #[arg(long, env = "DISCOVERD", default_value = "http://127.0.0.1:1111")]
    discoverd: String,
    /// Postgres: host.
    #[arg(long, env = "PGHOST", default_value = "postgres.discoverd")]
    pg_host: String,
    /// Postgres: port.
    #[arg(long, env = "PGPORT", default_value_t = 5432)]
    pg_port: u16,
    /// Postgres: role.
    #[arg(long, env = "PGUSER", default_value = "flynn")]
    pg_user: String,
    /// Postgres: password.
    #[arg(long, env = "PGPASSWORD", hide_env_values = true)]
    pg_password: String,
    /// Postgres: database.
    #[arg(long, env = "PGDATABASE", default_value = "controller")]
    pg_database: String,
}

/// A controller that relays for attached jobs and says nothing for this time is gone.
const ATTACH_LEASE: std::time::Duration = std::time::Duration::from_secs(30);

/// What the daemon runs with.
#[derive(Clone)]
pub struct Config {
    /// Address of the API.
    pub listen: std::net::SocketAddr,
    /// Keys that are accepted.
    pub keys: Keys,
    /// Keys that open only what a push needs, separated by commas; the first is given to who deploys a repository.
    pub gitreceive_key: String,
    /// Key of flynn-host and sampi.
    pub host_key: Option<String>,
    /// Key of strowger's API.
    pub strowger_key: Option<String>,
    /// Key of the Postgres provider.
    pub postgres_api_key: Option<String>,
    /// Key of shelf.
    pub shelf_key: Option<String>,
    /// Apps get the route `<app>.<this>`.
    pub default_route_domain: Option<String>,
    /// Builds that run at the same time.
    pub builds_at_once: u32,
    /// How long it is good that a controller says whom it relays for.
    pub attach_lease: std::time::Duration,
    /// How long attached jobs may go on once this controller shall stop.
    pub attach_grace: std::time::Duration,
    /// How long a removed resource can be restored.
    pub resource_grace: std::time::Duration,
    /// How much of the past is kept.
    pub retention: crate::Retention,
    /// discoverd.
    pub discoverd: String,
    /// The database.
    pub database: pg::Config,
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        let domain = args.default_route_domain.trim().to_ascii_lowercase();
        Self {
            listen: (std::net::Ipv4Addr::UNSPECIFIED, args.port).into(),
            keys: Keys::parse(&args.auth_key),
            gitreceive_key: args.gitreceive_key,
            host_key: args.host_key,
            strowger_key: args.strowger_key,
            postgres_api_key: args.postgres_api_key,
            shelf_key: args.shelf_key,
            default_route_domain: Some(domain).filter(|domain| !domain.is_empty()),
            builds_at_once: args.builds_at_once,
            attach_lease: ATTACH_LEASE,
            attach_grace: seconds(args.drain_seconds),
            resource_grace: seconds(args.resource_grace_seconds),
            retention: crate::Retention {
                releases: args.keep_releases.max(1),
                history: seconds(args.keep_events_seconds),
                ..crate::Retention::default().with_delay(seconds(args.keep_unused_seconds))
            },
            discoverd: args.discoverd,
            database: pg::Config {
                host: args.pg_host,
                port: args.pg_port,
                user: args.pg_user,
                password: args.pg_password,
                database: args.pg_database,
                application: "controller".into(),
            },
        }
    }
}

/// A hundred years at most: a longer time cannot be reckoned with.
fn seconds(seconds: u64) -> std::time::Duration {
    std::time::Duration::from_secs(seconds.min(100 * 365 * 86_400))
}

impl std::fmt::Debug for Args {
    /// Without the keys and the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Args")
            .field("port", &self.port)
            .field("discoverd", &self.discoverd)
            .field("pg_host", &self.pg_host)
            .field("pg_database", &self.pg_database)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Config {
    /// Without the keys; [`pg::Config`] leaves out its password itself.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("default_route_domain", &self.default_route_domain)
            .field("discoverd", &self.discoverd)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_shows_when_the_configuration_is_printed() {
        let args = ["x", "--auth-key=sesame1", "--host-key=sesame2", "--pg-password=sesame3"];
        let args = Args::parse_from(args);
        let printed = format!("{args:?} {:?}", Config::from(args.clone()));
        assert!(!printed.contains("sesame"), "{printed}");
    }
}
