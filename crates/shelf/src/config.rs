//! What is configured, by flags or environment.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use clap::{Parser, builder::NonEmptyStringValueParser};

/// A store for blobs over HTTP.
#[derive(Debug, Clone, Parser)]
#[command(name = "shelf", version, about)]
pub struct Args {
    /// Port to listen on.
    #[arg(long, env = "PORT", default_value_t = 3001)]
    pub port: u16,
    /// Key that clients give as the password, and that signs URLs. While keys change, several, separated by commas: all are
    /// accepted, and clients use the first.
    #[arg(long, env = "SHELF_KEY", hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub key: String,
    /// Directory of the blobs.
    #[arg(long, env = "DATA_DIR", default_value = "/data")]
    pub data_dir: PathBuf,
    /// Bytes of the disk that stay free: below it nothing new is stored.
    #[arg(long, env = "DISK_RESERVE", default_value_t = 512 << 20)]
    pub disk_reserve: u64,
}

/// What shelf works with.
#[derive(Clone)]
pub struct Config {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Key of clients and of signatures.
    pub key: String,
    /// Directory of the blobs.
    pub data_dir: PathBuf,
    /// Bytes of the disk that stay free.
    pub disk_reserve: u64,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Config({}, {})", self.listen, self.data_dir.display())
    }
}

impl From<Args> for Config {
    fn from(Args { port, key, data_dir, disk_reserve }: Args) -> Self {
        Self { listen: (Ipv4Addr::UNSPECIFIED, port).into(), key, data_dir, disk_reserve }
    }
}
