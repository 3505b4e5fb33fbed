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
    /// Bytes of all blobs below one `/<kind>/<name>/`: what one app stores leaves the others their room.
    #[arg(long, env = "FOLDER_LEN_MAX", default_value_t = 32 << 30)]
    pub folder_len_max: u64,
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
    /// Bytes of all blobs below one `/<kind>/<name>/`.
    pub folder_len_max: u64,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Config({}, {})", self.listen, self.data_dir.display())
    }
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        let Args { port, key, data_dir, disk_reserve, folder_len_max } = args;
        let listen = (Ipv4Addr::UNSPECIFIED, port).into();
        Self { listen, key, data_dir, disk_reserve, folder_len_max }
    }
}
