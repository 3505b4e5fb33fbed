//! What is configured, by flags or environment.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
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
    /// Command that deploys a push, run with the app and the commit, the tar on stdin: exit 0 takes the push. In a
    /// cluster it is flynn-receive if none is named.
    pub receiver: Option<String>,
    /// Port to listen on.
    #[arg(short, long, env = "PORT", default_value_t = 22)]
    pub port: u16,
    /// Directory of the repositories; in a cluster they are copies that may be lost at any time.
    #[arg(short, long, env = "CACHE_DIR", default_value = "/tmp/repos")]
    pub repos: PathBuf,
    /// PEM file with the host's private keys, if they are not in the environment.
    #[arg(short, long)]
    pub keys: Option<PathBuf>,
    /// The host's private keys, PEM, one or more.
    #[arg(long, env = "SSH_PRIVATE_KEYS", hide_env_values = true, default_value = "")]
    pub ssh_private_keys: String,
    /// Key of the controller. Without it gitreceived belongs to no cluster.
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
    /// Seconds a client may be silent before all of its push has arrived, or read nothing.
    #[arg(long, env = "PUSH_IDLE_TIMEOUT", default_value_t = 600)]
    pub push_idle_timeout: u64,
    /// Seconds that pushes may go on after SIGTERM; then each is told to come back.
    #[arg(long, env = "DRAIN_SECONDS", default_value_t = 8)]
    pub drain_seconds: u64,
    /// Bytes of all copies of repositories in a cluster, pushes under way included.
    #[arg(long, env = "DISK_LEN_MAX", default_value_t = 24 << 30)]
    pub disk_len_max: u64,
}

/// A longer time cannot be reckoned with.
const YEAR_SECONDS: u64 = 365 * 86_400;

/// What gitreceived works with.
#[derive(Clone)]
pub struct Config {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Command that decides about keys; the controller if empty.
    pub authchecker: Vec<String>,
    /// Command that deploys.
    pub receiver: Vec<String>,
    /// Environment of both.
    pub receiver_env: BTreeMap<String, String>,
    /// This program, for the hook.
    pub hook: PathBuf,
    /// Repositories, or copies of them.
    pub cache_dir: PathBuf,
    /// The host's keys.
    pub host_keys: Vec<PrivateKey>,
    /// The cluster it belongs to, if any.
    pub cluster: Option<ClusterConfig>,
    /// `PATH` of git.
    pub path: String,
    /// Longest time of a push.
    pub push_timeout: Duration,
    /// Longest silence of a client that has not sent all of its push; and longest time it reads nothing.
    pub push_idle_timeout: Duration,
    /// How long pushes may go on once the server shall stop.
    pub stop_grace: Duration,
    /// Most bytes of all copies.
    pub disk_len_max: u64,
}

/// A cluster, as gitreceived sees it.
#[derive(Clone)]
pub struct ClusterConfig {
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
}

impl ClusterConfig {
    /// What a receiver needs to be part of it.
    pub fn env(&self, path: &str) -> BTreeMap<String, String> {
        let env = [
            ("PATH", Some(path)),
            ("CONTROLLER_KEY", Some(&self.controller_key)),
            ("SHELF_KEY", Some(&self.shelf_key)),
            ("DISCOVERD", Some(&self.discoverd)),
            ("CONTROLLER_URL", self.controller_url.as_deref()),
            ("SHELF_URL", self.shelf_url.as_deref()),
        ];
        let env = env.into_iter().filter_map(|(name, value)| Some((name, value?)));
        env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
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
    /// A command whose program is not there.
    #[error("the command {0:?} cannot be run: there is no such executable file")]
    NoProgram(String),
    /// Neither a cluster nor the two commands.
    #[error(
        "without CONTROLLER_KEY gitreceived belongs to no cluster and needs two commands: gitreceived -p 2222 -k hostkey \
         <authchecker> <receiver>"
    )]
    Alone,
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
        let cluster = (!args.controller_key.is_empty()).then_some(ClusterConfig {
            controller_key: args.controller_key,
            shelf_key: args.shelf_key,
            discoverd: args.discoverd,
            controller_url: args.controller_url,
            shelf_url: args.shelf_url,
        });
        let authchecker = words(&args.authchecker)?;
        let receiver = match (args.receiver, &cluster) {
            (Some(receiver), _) => receiver,
            (None, Some(_)) => "flynn-receive".into(),
            (None, None) => return Err(ConfigError::Alone),
        };
        let words = words(&receiver)?;
        if words.is_empty() {
            return Err(ConfigError::CommandLine(receiver));
        }
        if cluster.is_none() && authchecker.is_empty() {
            return Err(ConfigError::Alone);
        }
        // At once, and not when the first one pushes.
        for program in authchecker.first().into_iter().chain(words.first()) {
            if !is_program(program, &args.path) {
                return Err(ConfigError::NoProgram(program.clone()));
            }
        }
        Ok(Self {
            listen: (Ipv4Addr::UNSPECIFIED, args.port).into(),
            authchecker,
            receiver: words,
            receiver_env: match &cluster {
                Some(cluster) => cluster.env(&args.path),
                None => own_env(std::env::vars_os()),
            },
            hook: std::env::current_exe().map_err(ConfigError::Myself)?,
            cache_dir: args.repos,
            host_keys: host_keys(&pem)?,
            cluster,
            path: args.path,
            push_timeout: Duration::from_secs(args.push_timeout),
            push_idle_timeout: Duration::from_secs(args.push_idle_timeout),
            stop_grace: Duration::from_secs(args.drain_seconds.min(YEAR_SECONDS)),
            disk_len_max: args.disk_len_max,
        })
    }
}

/// What commands get of an operator's own environment: all but the host's keys, and what cannot be text.
fn own_env(env: impl Iterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    env.filter_map(text).filter(|(name, _)| name != "SSH_PRIVATE_KEYS").collect()
}

/// Whether this can be run: a file, or the name of one in `PATH`.
fn is_program(program: &str, path: &str) -> bool {
    let runs = |file: &Path| {
        file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    match program.contains('/') {
        true => runs(Path::new(program)),
        false => path.split(':').any(|dir| runs(&Path::new(dir).join(program))),
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
