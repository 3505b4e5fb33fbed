//! `server-add`, `servers`, `server-remove`, `server-default`.

use clap::Args;
use serde::Serialize;

use crate::{
    args::Listing,
    domain::{
        flynnrc::{Flynnrc, Server, host_of, new_server},
        table,
        target::TargetError,
    },
    output,
    session::Session,
};

/// Port that the cluster takes git pushes on.
const GIT_PORT: u16 = 2222;

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Where git pushes go, `host` or `host:port`; the URL's host, port 2222, if left out
    #[arg(short, long, alias = "git-url", value_name = "HOST")]
    git_host: Option<String>,
    /// The only certificate the server may have: base64 of its SHA-256
    #[arg(short = 'p', long, value_name = "PIN")]
    tls_pin: Option<String>,
    /// Replace a server of that name, URL or git host
    #[arg(short, long)]
    force: bool,
    /// Use it where nothing else says
    #[arg(short, long)]
    default: bool,
    /// What you call it
    #[arg(value_name = "SERVER-NAME")]
    name: String,
    /// URL of its controller, or the cluster's domain
    url: String,
    /// The controller key
    key: String,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// What you call it
    #[arg(value_name = "SERVER-NAME")]
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct DefaultArgs {
    /// The server to use from now on; shows the present one if left out
    #[arg(value_name = "SERVER-NAME")]
    name: Option<String>,
    #[command(flatten)]
    listing: Listing,
}

pub(crate) fn add(session: &Session, args: &AddArgs) -> anyhow::Result<()> {
    let url = if args.url.contains("://") {
        args.url.clone()
    } else {
        format!("https://controller.{}", args.url)
    };
    let git_host = match &args.git_host {
        Some(given) if given.contains("://") => host_of(given, None).unwrap_or(given.clone()),
        Some(given) => given.clone(),
        None => {
            let host = host_of(&url, Some(GIT_PORT)).unwrap_or_default();
            host.strip_prefix("controller.").unwrap_or(&host).to_owned()
        }
    };
    let new = new_server(&args.name, &git_host, &url, &args.key, args.tls_pin.as_deref())?;
    let mut rc = session.flynnrc()?;
    while args.force
        && let Some((old, _)) = rc.in_the_way_of(&new)
    {
        rc = rc.without_server(&old.name)?;
    }
    let mut text = rc.with_server(&new)?;
    if args.default {
        text = Flynnrc::parse(&text)?.with_default(&args.name)?.text().to_owned();
    }
    session.write_flynnrc(&text)?;
    if args.listing.json {
        show(&Flynnrc::parse(&text)?, &args.name)?;
    }
    output::say(&format!("Server {:?} added.", args.name));
    if new.url.scheme() == "http" && !new.url.host_str().is_some_and(|h| h.ends_with("localhost")) {
        output::say(
            "Its URL is http://, so the key travels unencrypted; use https:// and -p if you can.",
        );
    }
    Ok(())
}

/// A server without its key.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    url: &'a str,
    git_host: &'a str,
    tls_pin: Option<String>,
    default: bool,
}

/// All servers, without their keys.
fn shown(rc: &Flynnrc) -> Vec<Shown<'_>> {
    let first = rc.servers.first().map(|server| server.name.as_str());
    let default = rc.default.as_deref().or(first);
    let shown = |server: &'_ Server| server.pin.map(|pin| pin.to_string());
    rc.servers
        .iter()
        .map(|server| Shown {
            name: &server.name,
            url: server.base(),
            git_host: &server.git_host,
            tls_pin: shown(server),
            default: Some(server.name.as_str()) == default,
        })
        .collect()
}

/// One of them as JSON.
fn show(rc: &Flynnrc, name: &str) -> anyhow::Result<()> {
    output::json(&shown(rc).into_iter().find(|server| server.name == name))
}

pub(crate) fn list(session: &Session, args: Listing) -> anyhow::Result<()> {
    let rc = session.flynnrc()?;
    let servers = shown(&rc);
    if args.json {
        return output::json(&servers);
    }
    let row = |server: &Shown<'_>| {
        let default = if server.default { "default" } else { "" };
        [server.name, server.url, server.git_host, default].map(str::to_owned).to_vec()
    };
    let rows: Vec<_> = servers.iter().map(row).collect();
    Ok(output::text(&table::render(&["NAME", "URL", "GIT HOST", ""], &rows))?)
}

pub(crate) fn remove(session: &Session, args: &NameArgs) -> anyhow::Result<()> {
    let rc = session.flynnrc()?.without_server(&args.name)?;
    session.write_flynnrc(rc.text())?;
    output::say(&format!("Server {:?} removed.", args.name));
    Ok(())
}

pub(crate) fn default(session: &Session, args: &DefaultArgs) -> anyhow::Result<()> {
    let rc = session.flynnrc()?;
    let Some(name) = &args.name else {
        let first = rc.servers.first().map(|server| server.name.clone());
        return match rc.default.clone().or(first) {
            Some(name) if args.listing.json => show(&rc, &name),
            Some(name) => Ok(output::data(&name)?),
            None => Err(TargetError::NoServer.into()),
        };
    };
    let rc = rc.with_default(name)?;
    session.write_flynnrc(rc.text())?;
    if args.listing.json {
        show(&rc, name)?;
    }
    output::say(&format!("Server {name:?} is the default now."));
    Ok(())
}
