//! What each program needs to know.

use std::path::PathBuf;

use clap::Parser;

/// Runs PostgreSQL.
#[derive(Clone, Parser)]
#[command(version, about)]
pub struct ServerConfig {
    /// Port to listen on, on all addresses.
    #[arg(long, env = "PORT", default_value_t = 5432)]
    pub port: u16,
    /// Password of the superuser `flynn`.
    #[arg(long, env = "PGPASSWORD", hide_env_values = true)]
    pub password: String,
    /// The volume.
    #[arg(long, env = "DATA_DIR", default_value = "/data")]
    pub data_dir: PathBuf,
    /// Directory for the Unix socket.
    #[arg(long, env = "SOCKET_DIR", default_value = "/run/postgresql")]
    pub socket_dir: PathBuf,
    /// Bytes of memory of its own that each process of the server may have: a query that wants more fails alone.
    #[arg(long, env = "PROCESS_MEMORY", default_value_t = 512 << 20)]
    pub process_memory: u64,
    /// PostgreSQL's programs; by default the newest in /usr/lib/postgresql.
    #[arg(long, env = "PG_BIN")]
    pub programs: Option<PathBuf>,
}

/// Makes databases.
#[derive(Clone, Parser)]
#[command(version, about)]
pub struct ApiConfig {
    /// Port to listen on, on all addresses.
    #[arg(long, env = "PORT", default_value_t = 3000)]
    pub port: u16,
    /// Keys that are accepted, with commas.
    #[arg(long, env = "POSTGRES_API_KEY", hide_env_values = true)]
    pub key: String,
    /// Where the server is.
    #[arg(long, env = "PGHOST", default_value = "postgres.discoverd")]
    pub host: String,
    /// Its port.
    #[arg(long, env = "PGPORT", default_value_t = 5432)]
    pub pg_port: u16,
    /// Password of the superuser `flynn`.
    #[arg(long, env = "PGPASSWORD", hide_env_values = true)]
    pub password: String,
    /// Bytes of each app's database: above it becomes read-only, and a quarter above that it is closed.
    #[arg(long, env = "DATABASE_LEN_MAX", default_value_t = 10 << 30)]
    pub database_len_max: u64,
    /// Seconds between two looks at how large the databases are.
    #[arg(long, env = "MEASURE_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub measure_seconds: u64,
}
