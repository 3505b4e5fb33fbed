//! What is configured, by flags or environment.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::Parser;
use russh::keys::{PrivateKey, decode_secret_key};

/// An SSH server for git push.
#[derive(Debug, Parser)]
#[command(name = "gitreceived", version, about)]
pub struct Args {
    /// Command that decides about a key, run with the SSH user and `<type> <base64>`: exit 0 lets it in. The controller
    /// is asked if there is none.
    #[arg(default_value = "")]
    pub authchecker: String,
    /// Command that deploys a push, run with the app and the commit, the tar on stdin: exit 0 takes the push.
    #[arg(default_value = "flynn-receive")]
    pub receiver: String,
    /// Port to listen on.
    #[arg(short, long, env = "PORT", default_value_t = 22)]
    pub port: u16,
    /// Directory of the copies of repositories; may be lost at any time.
    #[arg(short, long, env = "CACHE_DIR", default_value = "/tmp/repos")]
    pub repos: PathBuf,
    /// PEM file with the host's private keys, if they are not in the environment.
    #[arg(short, long)]
    pub keys: Option<PathBuf>,
    /// The host's private keys, PEM, one or more.
    #[arg(long, env = "SSH_PRIVATE_KEYS", hide_env_values = true, default_value = "")]
    pub ssh_private_keys: String,
    /// Key of the controller.
    #[arg(long, env = "CONTROLLER_KEY", hide_env_values = true, default_value = "")]
    pub controller_key: String,
    /// Key of shelf.
    #[arg(long, env = "SHELF_KEY", hide_env_values = true, default_value = "")]
    pub shelf_key: String,
    /// Where discoverd is.
    #[arg(long, env = "DISCOVERD", default_value = "http://127.0.0.1:1111")]
    pub discoverd: String,
    /// Where the controller is, instead of asking discoverd.
    #[arg(long, env = "CONTROLLER_URL")]
    pub controller_url: Option<String>,
    /// Where shelf is, instead of asking discoverd.
    #[arg(long, env = "SHELF_URL")]
    pub shelf_url: Option<String>,
    /// Where git and the receiver are looked for.
    #[arg(long, env = "PATH", default_value = "/usr/local/bin:/usr/bin:/bin", hide = true)]
    pub path: String,
    /// Seconds a push may take, its build and deployment included.
    #[arg(long, env = "PUSH_TIMEOUT", default_value_t = 3600)]
    pub push_timeout: u64,
}

/// What gitreceived works with.
#[derive(Clone)]
pub struct Config {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Command that decides about keys; the controller if empty.
    pub authchecker: Vec<String>,
    /// Command that deploys.
    pub receiver: Vec<String>,
    /// This program, for the hook.
    pub hook: PathBuf,
    /// Copies of repositories.
    pub cache_dir: PathBuf,
    /// The host's keys.
    pub host_keys: Vec<PrivateKey>,
    /// Key of the controller.
    pub controller_key: String,
    /// Key of shelf.
    pub shelf_key: String,
    /// Where discoverd is.
    pub discoverd: String,
    /// Where the controller is, if discoverd is not to be asked.
    pub controller_url: Option<String>,
    /// Where shelf is, if discoverd is not to be asked.
    pub shelf_url: Option<String>,
    /// `PATH` of git and the receiver.
    pub path: String,
    /// Longest time of a push.
    pub push_timeout: Duration,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Config({}, {})", self.listen, self.cache_dir.display())
    }
}

/// Why what was configured cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No key at all.
    #[error(
        "there is no host key: give PEM in SSH_PRIVATE_KEYS or a file with --keys (ssh-keygen -t ed25519 makes one)"
    )]
    NoHostKey,
    /// A block of PEM that is no private key.
    #[error(
        "one of the host keys cannot be read: it must be an unencrypted ed25519, ECDSA or RSA key in PEM"
    )]
    HostKey(#[source] russh::keys::Error),
    /// The file of keys cannot be read.
    #[error("the host keys cannot be read from {path}")]
    KeyFile {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A command line with an open quote.
    #[error("the command {0:?} cannot be used: it must be words, quoted as in a shell")]
    CommandLine(String),
    /// This program's own file.
    #[error("the path of this program cannot be found, which its hook needs")]
    Myself(#[source] std::io::Error),
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        let pem = match &args.keys {
            Some(path) if args.ssh_private_keys.is_empty() => std::fs::read_to_string(path)
                .map_err(|source| ConfigError::KeyFile { path: path.clone(), source })?,
            _ => args.ssh_private_keys,
        };
        let receiver = words(&args.receiver)?;
        if receiver.is_empty() {
            return Err(ConfigError::CommandLine(args.receiver));
        }
        Ok(Self {
            listen: (Ipv4Addr::UNSPECIFIED, args.port).into(),
            authchecker: words(&args.authchecker)?,
            receiver,
            hook: std::env::current_exe().map_err(ConfigError::Myself)?,
            cache_dir: args.repos,
            host_keys: host_keys(&pem)?,
            controller_key: args.controller_key,
            shelf_key: args.shelf_key,
            discoverd: args.discoverd,
            controller_url: args.controller_url,
            shelf_url: args.shelf_url,
            path: args.path,
            push_timeout: Duration::from_secs(args.push_timeout),
        })
    }
}

fn words(command: &str) -> Result<Vec<String>, ConfigError> {
    shell_words::split(command).map_err(|_| ConfigError::CommandLine(command.into()))
}

/// Every private key in a text of PEM blocks.
fn host_keys(pem: &str) -> Result<Vec<PrivateKey>, ConfigError> {
    let keys = blocks(pem).into_iter().map(|block| decode_secret_key(&block, None));
    let keys = keys.collect::<Result<Vec<_>, _>>().map_err(ConfigError::HostKey)?;
    if keys.is_empty() { Err(ConfigError::NoHostKey) } else { Ok(keys) }
}

fn blocks(pem: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in pem.lines().map(str::trim) {
        if line.starts_with("-----BEGIN ") && line.ends_with("PRIVATE KEY-----") {
            block = Some(String::new());
        }
        if let Some(text) = &mut block {
            text.push_str(line);
            text.push('\n');
        }
        if line.starts_with("-----END ") {
            blocks.extend(block.take());
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use russh::keys::{Algorithm, ssh_key::LineEnding};

    use super::*;

    #[test]
    fn every_key_of_a_text_is_found() {
        let pem: Vec<String> = (0..2)
            .map(|_| PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap())
            .map(|key| key.to_openssh(LineEnding::LF).unwrap().to_string())
            .collect();
        let text = format!("a comment\n{}\n\n  {}", pem[0], pem[1].replace('\n', "\r\n"));
        assert_eq!(host_keys(&text).unwrap().len(), 2);
        assert!(matches!(host_keys("nothing"), Err(ConfigError::NoHostKey)));
        let broken = "-----BEGIN PRIVATE KEY-----\nxx\n-----END PRIVATE KEY-----";
        assert!(matches!(host_keys(broken), Err(ConfigError::HostKey(_))));
    }

    proptest! {
        #[test]
        fn reading_keys_never_panics(text in "(-----(BEGIN|END) (RSA )?PRIVATE KEY-----|[a-zA-Z0-9+/=]{0,70}|\n){0,12}") {
            let _ = host_keys(&text);
        }
    }
}
