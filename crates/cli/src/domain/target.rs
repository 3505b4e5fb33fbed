//! Which server and which app a command is about.

use super::flynnrc::{Flynnrc, FlynnrcError, Server};

/// What the person said, and what the repository they are in says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes<'a> {
    /// `-a`.
    pub(crate) app: Option<&'a str>,
    /// `-c`.
    pub(crate) cluster: Option<&'a str>,
    /// `FLYNN_APP`.
    pub(crate) env_app: Option<&'a str>,
    /// `FLYNN_CLUSTER` or `FLYNN_SERVER`.
    pub(crate) env_server: Option<&'a str>,
    /// `git config flynn.remote`.
    pub(crate) flynn_remote: Option<&'a str>,
    /// Names and push URLs of the git remotes.
    pub(crate) remotes: &'a [(String, String)],
}

/// Why it is not clear which app is meant.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error(
        "no server is configured. Add yours with the line that the operator of your cluster has (`script/up` prints it again):\n  \
         flynn server-add [-g <git host>] [-p <TLS pin>] <name> <URL> <key>"
    )]
    NoServer,
    #[error(transparent)]
    Flynnrc(#[from] FlynnrcError),
    #[error(
        "no app is given and no git remote here is a Flynn app: say `-a <app>`, set FLYNN_APP, or run this in the \
         app's repository after `flynn create` (`flynn apps` lists the apps)"
    )]
    NoApp,
    #[error(
        "several git remotes are Flynn apps ({0}): say which with `-a <remote>`, or for good with \
         `git config flynn.remote <remote>`"
    )]
    Ambiguous(String),
    #[error("git config flynn.remote names {0:?}, which is no git remote of a Flynn app")]
    BadFlynnRemote(String),
}

/// A git remote that is an app.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Remote<'a> {
    name: &'a str,
    server: &'a Server,
    app: String,
}

/// The server of a command that is about no app.
pub(crate) fn server<'a>(wishes: &Wishes<'_>, rc: &'a Flynnrc) -> Result<&'a Server, TargetError> {
    let first = rc.servers.first().ok_or(TargetError::NoServer)?;
    let named = wishes.cluster.or(wishes.env_server).or(rc.default.as_deref());
    Ok(named.map(|name| rc.server(name)).transpose()?.unwrap_or(first))
}

/// The server and the app of a command about an app.
pub(crate) fn app<'a>(
    wishes: &Wishes<'a>,
    rc: &'a Flynnrc,
) -> Result<(&'a Server, String), TargetError> {
    let fallback = server(wishes, rc)?;
    let remotes: Vec<Remote<'a>> = wishes
        .remotes
        .iter()
        .filter_map(|(name, url)| {
            let (server, app) = app_of_url(&rc.servers, url)?;
            Some(Remote { name, server, app })
        })
        .filter(|remote| wishes.cluster.is_none_or(|name| remote.server.name == name))
        .collect();
    if let Some(wanted) = wishes.app.or(wishes.env_app) {
        let by_name = remotes.iter().find(|remote| remote.name == wanted);
        let mut by_app = remotes.iter().filter(|remote| remote.app == wanted);
        let remote = by_name.or_else(|| by_app.next().filter(|_| by_app.next().is_none()));
        return Ok(match remote {
            Some(remote) => (remote.server, remote.app.clone()),
            None => (fallback, wanted.to_owned()),
        });
    }
    if let Some(name) = wishes.flynn_remote {
        let remote = remotes.into_iter().find(|remote| remote.name == name);
        let remote = remote.ok_or_else(|| TargetError::BadFlynnRemote(name.into()))?;
        return Ok((remote.server, remote.app));
    }
    match &remotes[..] {
        [] => Err(TargetError::NoApp),
        [first, rest @ ..]
            if rest.iter().all(|r| (r.server, &r.app) == (first.server, &first.app)) =>
        {
            Ok((first.server, first.app.clone()))
        }
        several => {
            let names = several.iter().map(|remote| format!("{} = {}", remote.name, remote.app));
            Err(TargetError::Ambiguous(names.collect::<Vec<_>>().join(", ")))
        }
    }
}

/// The app a git URL names, if it is one of a server's.
pub(crate) fn app_of_url<'a>(servers: &'a [Server], url: &str) -> Option<(&'a Server, String)> {
    let (host, path) = match url.strip_prefix("ssh://") {
        Some(rest) => rest.strip_prefix("git@").unwrap_or(rest).split_once('/')?,
        // git's short form, which has no port.
        None => url.strip_prefix("git@")?.split_once(':')?,
    };
    let app = path.strip_suffix(".git").unwrap_or(path).trim_matches('/');
    let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if app.is_empty() || !app.chars().all(name) {
        return None;
    }
    let port = |host: &str| host.strip_suffix(":22").unwrap_or(host).to_ascii_lowercase();
    let server = servers.iter().find(|server| port(&server.git_host) == port(host))?;
    Some((server, app.to_owned()))
}

/// Names and URLs out of what `git remote -v` prints, the ones that are pushed to.
pub(crate) fn push_urls(listing: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let (name, rest) = line.split_once('\t')?;
        Some((name.to_owned(), rest.strip_suffix(" (push)")?.to_owned()))
    };
    listing.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests;
