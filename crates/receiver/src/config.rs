//! What the two programs are given.

use std::{ffi::OsString, path::PathBuf};

use api_client::Endpoint;
use clap::{Args, Parser};
use discoverd_client::Discoverd;

/// Where the services are.
#[derive(Debug, Clone, Args)]
pub struct Services {
    /// Key of the controller.
    #[arg(long, env = "CONTROLLER_KEY", hide_env_values = true)]
    pub controller_key: String,
    /// Where discoverd is.
    #[arg(long, env = "DISCOVERD", default_value = "http://127.0.0.1:1111")]
    pub discoverd: String,
    /// Where the controller is, instead of asking discoverd.
    #[arg(long, env = "CONTROLLER_URL")]
    pub controller_url: Option<String>,
    /// Where shelf is, instead of asking discoverd.
    #[arg(long, env = "SHELF_URL")]
    pub shelf_url: Option<String>,
}

impl Services {
    /// The controller.
    pub fn controller(&self) -> Endpoint {
        self.find(self.controller_url.as_deref(), "controller")
    }

    /// shelf.
    pub fn shelf(&self) -> Endpoint {
        self.find(self.shelf_url.as_deref(), "shelf")
    }

    fn find(&self, url: Option<&str>, service: &str) -> Endpoint {
        match url {
            Some(url) => url.into(),
            None => Discoverd::new(&self.discoverd, None).watch(service).endpoint(),
        }
    }
}

/// Builds and deploys a tree, which is read as a tar from stdin.
#[derive(Debug, Clone, Parser)]
#[command(name = "flynn-receive", version, about)]
pub struct ReceiveArgs {
    /// Name of the app.
    pub app: String,
    /// The commit the tree is of.
    pub commit: String,
    /// Where the services are.
    #[command(flatten)]
    pub services: Services,
    /// Key of shelf.
    #[arg(long, env = "SHELF_KEY", hide_env_values = true)]
    pub shelf_key: String,
    /// shelf as a build sees it.
    #[arg(long, env = "BUILD_SHELF_URL", default_value = "http://shelf.discoverd:3001")]
    pub build_shelf_url: String,
    /// Commit that is deployed now; empty if none is.
    #[arg(long, env = "FLYNN_HEAD_OLD", default_value = "")]
    pub head_old: String,
    /// Shelf paths of the packs the repository has now, with commas.
    #[arg(long, env = "FLYNN_PACKS_OLD")]
    pub packs_old: Option<String>,
    /// Shelf paths of all packs the repository then has, with commas.
    #[arg(long, env = "FLYNN_PACKS")]
    pub packs: Option<String>,
    /// A file with one pack of the whole repository, instead of the three.
    #[arg(long, env = "FLYNN_PACK_FILE")]
    pub pack_file: Option<PathBuf>,
    /// Fingerprint of the key that pushes.
    #[arg(long, env = "RECEIVE_FINGERPRINT", default_value = "")]
    pub pusher: String,
}

/// What `flynn-key-check` is given. Its words come from a stranger, so none of them is ever an option.
#[derive(Debug, Clone)]
pub struct KeyCheckArgs {
    /// `<type> <base64>`.
    pub key: String,
    /// Where the services are.
    pub services: Services,
}

/// The environment of `flynn-key-check`.
#[derive(Debug, Parser)]
struct KeyCheckEnv {
    #[command(flatten)]
    services: Services,
}

impl KeyCheckArgs {
    /// Understands `<user> "<type> <base64>"`, exactly these two; the user is not looked at, for a key is enough. The
    /// services are configured by environment alone. `None` for anything else.
    pub fn parse(mut words: impl Iterator<Item = OsString>) -> Option<Self> {
        let (program, user, key) = (words.next()?, words.next()?, words.next()?);
        let key = key.into_string().ok().filter(|key| !key.trim().is_empty())?;
        if words.next().is_some() || user.is_empty() || user.as_encoded_bytes().starts_with(b"-") {
            return None;
        }
        let KeyCheckEnv { services } = KeyCheckEnv::try_parse_from([program]).ok()?;
        Some(Self { key, services })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_and_no_number_of_words_makes_an_option_of_the_key_check() {
        let parse = |words: &[&str]| {
            let words = ["flynn-key-check"].iter().chain(words).map(OsString::from);
            KeyCheckArgs::parse(words.collect::<Vec<_>>().into_iter())
        };
        for user in
            ["--help", "-h", "-V", "--version", "--", "-", "--controller-url=http://evil", ""]
        {
            assert!(parse(&[user, "ssh-ed25519 AAAA"]).is_none(), "{user:?}");
        }
        assert!(parse(&["git"]).is_none() && parse(&["git", "", ""]).is_none());
        assert!(parse(&["git", "ssh-ed25519 AAAA", "--help"]).is_none());
    }
}
