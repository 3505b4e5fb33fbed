//! What is typed, and what can be used.

use std::{io, net::SocketAddr, path::PathBuf};

use api_client::Client;
use clap::Parser;
use daemon::auth::Keys;

/// Service discovery: who is alive at which address, and who leads. HTTP, server-sent events and DNS.
#[derive(Debug, Clone, Parser)]
#[command(name = "discoverd", version)]
pub struct Args {
    /// etcd's endpoints, separated by commas.
    #[arg(long, env = "ETCD", default_value = "http://127.0.0.1:2379", value_delimiter = ',')]
    pub etcd: Vec<String>,
    /// Where the discoverd of a host with a member of etcd may be followed, so that not every host watches etcd; empty for
    /// nowhere. Nobody need listen there.
    #[arg(long, env = "RELAY", default_value = "")]
    pub relay: String,
    /// The key writes need; several may be given, separated by commas.
    #[arg(long, env = "DISCOVERD_KEY", hide_env_values = true)]
    pub key: String,
    /// Addresses to serve HTTP on, separated by commas.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:1111", value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,
    /// Addresses to serve DNS on, separated by commas; empty for none.
    #[arg(long, env = "DNS_LISTEN", default_value = "")]
    pub dns_listen: String,
    /// Where the id of the lease is kept, so that a restarted discoverd goes on with it; empty for nowhere.
    #[arg(long, env = "STATE_DIR", default_value = "/run/discoverd")]
    pub state_dir: String,
    /// The name of this host, noted in etcd with what it registers.
    #[arg(long, env = "HOST_ID", default_value = "")]
    pub host_id: String,
    /// The file that names the present boot.
    #[arg(long, env = "BOOT_ID_FILE", default_value = "/proc/sys/kernel/random/boot_id")]
    pub boot_id_file: PathBuf,
    /// The file that names the servers for other DNS zones.
    #[arg(long, env = "RESOLV_CONF", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
}

/// What discoverd runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// etcd's endpoints.
    pub etcd: Vec<String>,
    /// Where another discoverd may be followed.
    pub relay: Option<Client>,
    /// Who may write.
    pub keys: Keys,
    /// Where to serve HTTP.
    pub listen: Vec<SocketAddr>,
    /// Where to serve DNS.
    pub dns_listen: Vec<SocketAddr>,
    /// Where the lease's id is kept, if anywhere.
    pub state_dir: Option<PathBuf>,
    /// The name of this host.
    pub host_id: String,
    /// Differs after every boot.
    pub boot_id: String,
    /// Names the servers for other DNS zones.
    pub resolv_conf: PathBuf,
}

/// Why discoverd cannot run with what was typed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nobody could register anything.
    #[error(
        "DISCOVERD_KEY is empty: nobody could register anything; set it to the key of discoverd"
    )]
    NoKey,
    /// There is nothing to serve.
    #[error("LISTEN names no address")]
    NoAddress,
    /// Not an address.
    #[error("DNS_LISTEN: {0:?} is not an ip:port")]
    DnsAddress(String),
    /// The boot cannot be told from others.
    #[error("the id of this boot cannot be read from {file}")]
    BootId {
        /// Where from.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        if args.key.split(',').all(|key| key.trim().is_empty()) {
            return Err(ConfigError::NoKey);
        }
        if args.listen.is_empty() {
            return Err(ConfigError::NoAddress);
        }
        let dns = args.dns_listen.split(',').map(str::trim).filter(|one| !one.is_empty());
        let dns_listen = dns
            .map(|one| one.parse().map_err(|_| ConfigError::DnsAddress(one.into())))
            .collect::<Result<_, _>>()?;
        let file = args.boot_id_file;
        let boot_id = std::fs::read_to_string(&file)
            .map_err(|source| ConfigError::BootId { file, source })?
            .trim()
            .to_owned();
        Ok(Self {
            etcd: args.etcd,
            relay: relay(args.relay, &args.key),
            keys: Keys::parse(&args.key),
            listen: args.listen,
            dns_listen,
            state_dir: Some(args.state_dir).filter(|dir| !dir.is_empty()).map(PathBuf::from),
            host_id: args.host_id,
            boot_id,
            resolv_conf: args.resolv_conf,
        })
    }
}

/// All discoverds have the same keys.
fn relay(url: String, keys: &str) -> Option<Client> {
    let key = keys.split(',').map(str::trim).find(|key| !key.is_empty());
    (!url.is_empty()).then(|| Client::new(url, key.map(str::to_owned)).without_retries())
}
