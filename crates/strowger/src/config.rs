//! Configuration.

use std::net::IpAddr;

use clap::Parser;

use crate::{LimitConfig, acme::AcmeSettings};

/// The HTTP and TCP router.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub struct Config {
    /// Port for HTTP, on all addresses.
    #[arg(long, env = "HTTP_PORT", default_value_t = 80)]
    pub http_port: u16,
    /// Port for HTTPS, on all addresses.
    #[arg(long, env = "HTTPS_PORT", default_value_t = 443)]
    pub https_port: u16,
    /// Port of the API.
    #[arg(long, env = "PORT", default_value_t = 5000)]
    pub port: u16,
    /// Addresses the API listens on.
    #[arg(long, env = "API_LISTEN", value_delimiter = ',', default_value = "127.0.0.1")]
    pub api_listen: Vec<IpAddr>,
    /// One more: this host's on the job network, where flynn-host says it is.
    #[arg(long, env = "FLYNN_GATEWAY")]
    pub gateway: Option<IpAddr>,
    /// etcd's endpoints.
    #[arg(long, env = "ETCD", value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    pub etcd: Vec<String>,
    /// discoverd.
    #[arg(long, env = "DISCOVERD", default_value = "http://127.0.0.1:1111")]
    pub discoverd: String,
    /// The API's key; several, separated by commas, while it is being changed.
    #[arg(long, env = "STROWGER_KEY", hide_env_values = true)]
    pub key: Key,
    /// What is taken on at once.
    #[command(flatten)]
    pub limits: LimitConfig,
    /// Automatic certificates.
    #[command(flatten)]
    pub acme: AcmeSettings,
}

/// A key, which is never shown.
#[derive(Clone)]
pub struct Key(pub String);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl std::str::FromStr for Key {
    type Err = &'static str;

    fn from_str(key: &str) -> Result<Self, Self::Err> {
        match key.trim() {
            "" => Err("is empty, so nobody could use the API"),
            key => Ok(Self(key.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn no_two_settings_have_one_name() {
        Config::command().debug_assert();
    }
}
