//! `routes`, `route-add-http`, `route-add-tcp`, `route-update`, `route-remove`.

use std::{fs, io::Read};

use anyhow::{Context, bail};
use api::route::{NewRoute, PartialRoute, Route};
use clap::Args;

use super::Usage;
use crate::{
    args::Listing,
    domain::{
        pem,
        routes::{domain_and_path, https, id_of, label},
        table,
    },
    output,
    session::Session,
    stdio,
};

#[derive(Debug, Args)]
pub(crate) struct AddHttpArgs {
    /// The service it goes to; the web processes of the app if left out
    #[arg(short, long)]
    service: Option<String>,
    /// File with the certificate and its chain, PEM; `-` for stdin. In this command -c means this
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<String>,
    /// File with the certificate's key, PEM; `-` for stdin
    #[arg(short = 'k', long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<String>,
    /// Keep each visitor at one process
    #[arg(long)]
    sticky: bool,
    /// Send to the service's leader only
    #[arg(long)]
    leader: bool,
    /// Serve plain HTTP also where there is a certificate
    #[arg(long)]
    no_redirect: bool,
    /// Seconds for which browsers that came over HTTPS use nothing else
    #[arg(long, value_name = "SECONDS")]
    hsts: Option<u32>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Host name, or host name and path, as www.example.com/blog
    domain: String,
}

#[derive(Debug, Args)]
pub(crate) struct AddTcpArgs {
    /// The service it goes to; the web processes of the app if left out
    #[arg(short, long)]
    service: Option<String>,
    /// Port of the routers; one that is free if left out
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Send to the service's leader only
    #[arg(long)]
    leader: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Id of the route, as `flynn routes` shows it
    id: String,
    /// Another service it goes to
    #[arg(short, long)]
    service: Option<String>,
    /// File with the new certificate and its chain, PEM; `-` for stdin. In this command -c means this
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<String>,
    /// File with the certificate's key, PEM; `-` for stdin
    #[arg(short = 'k', long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<String>,
    /// Keep each visitor at one process
    #[arg(long, conflicts_with = "no_sticky")]
    sticky: bool,
    /// Send each request wherever there is room
    #[arg(long)]
    no_sticky: bool,
    /// Send to the service's leader only
    #[arg(long, conflicts_with = "no_leader")]
    leader: bool,
    /// Send to all of the service
    #[arg(long)]
    no_leader: bool,
    /// Answer plain HTTP by a redirect to HTTPS where there is a certificate
    #[arg(long, conflicts_with = "no_redirect")]
    redirect: bool,
    /// Serve plain HTTP also where there is a certificate
    #[arg(long)]
    no_redirect: bool,
    /// Seconds for which browsers that came over HTTPS use nothing else; 0 makes them forget it
    #[arg(long, value_name = "SECONDS")]
    hsts: Option<u32>,
    /// Remove the route's own certificate
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key"])]
    no_tls: bool,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Id of the route, as `flynn routes` shows it
    id: String,
}

pub(crate) async fn list(session: &Session, args: Listing) -> anyhow::Result<()> {
    let target = session.app()?;
    let routes = target.controller.routes(&target.name).await;
    let mut routes = routes.map_err(|err| target.explained(err))?;
    routes.sort_by_key(|route| route.created_at);
    if args.json {
        return output::json(&routes);
    }
    let mut header = vec!["ROUTE", "SERVICE", "ID"];
    if routes.iter().any(|route| !https(route).is_empty()) {
        header.push("HTTPS");
    }
    let row = |r: &Route| vec![label(r), r.service.clone(), r.id.clone(), https(r)];
    let rows: Vec<_> = routes.iter().map(row).collect();
    Ok(output::text(&table::render(&header, &rows))?)
}

pub(crate) async fn add_http(session: &Session, args: &AddHttpArgs) -> anyhow::Result<()> {
    let (domain, path) = domain_and_path(&args.domain).map_err(Usage)?;
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(certificate(cert, key)?),
        _ => None,
    };
    let target = session.app()?;
    // The name, should the app have been given by its id.
    let app = target.app().await?.name;
    let (tls_cert, tls_key) = tls.unzip();
    let route = PartialRoute {
        kind: Some("http".into()),
        service: Some(args.service.clone().unwrap_or_else(|| format!("{app}-web"))),
        domain: Some(domain),
        path: Some(path).filter(|path| !path.is_empty()),
        tls_cert,
        tls_key,
        sticky: args.sticky.then_some(true),
        leader: args.leader.then_some(true),
        redirect: args.no_redirect.then_some(false),
        hsts: args.hsts,
        ..PartialRoute::default()
    };
    let new = NewRoute { route, config: None };
    let made = target.controller.create_route(&target.name, &new).await?;
    if args.json { output::json(&made) } else { Ok(output::data(&made.id)?) }
}

pub(crate) async fn add_tcp(session: &Session, args: &AddTcpArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let app = target.app().await?.name;
    let route = PartialRoute {
        kind: Some("tcp".into()),
        service: Some(args.service.clone().unwrap_or_else(|| format!("{app}-web"))),
        port: args.port,
        leader: args.leader.then_some(true),
        ..PartialRoute::default()
    };
    let new = NewRoute { route, config: None };
    let made = target.controller.create_route(&target.name, &new).await?;
    if args.json {
        return output::json(&made);
    }
    output::say(&format!("{} listens on port {} of the routers.", made.service, made.port));
    Ok(output::data(&made.id)?)
}

pub(crate) async fn update(session: &Session, args: &UpdateArgs) -> anyhow::Result<()> {
    let either = |yes: bool, no: bool| (yes || no).then_some(yes);
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(certificate(cert, key)?),
        _ => None,
    };
    let target = session.app()?;
    let routes = target.controller.routes(&target.name).await;
    let routes = routes.map_err(|err| target.explained(err))?;
    let id = id_of(&routes, &args.id).with_context(|| {
        format!("{} has no route {:?}; `flynn routes` lists them", target.name, args.id)
    })?;
    let mut route = NewRoute::from(target.controller.route(&target.name, id).await?);
    let fields = &mut route.route;
    fields.service = args.service.clone().or(fields.service.take());
    fields.sticky = either(args.sticky, args.no_sticky).or(fields.sticky);
    fields.leader = either(args.leader, args.no_leader).or(fields.leader);
    fields.redirect = either(args.redirect, args.no_redirect).or(fields.redirect);
    fields.hsts = args.hsts.or(fields.hsts);
    (fields.tls_cert, fields.tls_key) = match tls {
        Some((cert, key)) => (Some(cert), Some(key)),
        None if args.no_tls => (Some(String::new()), Some(String::new())),
        // The key is never answered; a route that is sent without both keeps what it has.
        None => (None, None),
    };
    let stored = target.controller.update_route(&target.name, id, &route).await?;
    if args.listing.json { output::json(&stored) } else { Ok(output::data(&stored.id)?) }
}

pub(crate) async fn remove(session: &Session, args: &RemoveArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let routes = target.controller.routes(&target.name).await;
    let routes = routes.map_err(|err| target.explained(err))?;
    let id = id_of(&routes, &args.id).with_context(|| {
        format!("{} has no route {:?}; `flynn routes` lists them", target.name, args.id)
    })?;
    target.controller.delete_route(&target.name, id).await?;
    Ok(output::data(&format!("Route {id} removed."))?)
}

/// The certificate chain and the key out of two files, which may be one, and may be stdin.
fn certificate(cert: &str, key: &str) -> anyhow::Result<(String, String)> {
    let cert_text = read(cert)?;
    let key_text = if cert == key { cert_text.clone() } else { read(key)? };
    let certificates = pem::parts(&cert_text).certificates;
    if certificates.is_empty() {
        bail!("{} holds no certificate: expected a PEM block `BEGIN CERTIFICATE`", shown(cert));
    }
    let key_text = pem::parts(&key_text).key.with_context(|| {
        format!("{} holds no private key: expected a PEM block `BEGIN … PRIVATE KEY`", shown(key))
    })?;
    Ok((certificates, key_text))
}

fn read(file: &str) -> anyhow::Result<String> {
    if file != "-" {
        return fs::read_to_string(file).with_context(|| format!("reading {file}"));
    }
    let mut text = String::new();
    stdio::stdin().read_to_string(&mut text).context("reading stdin")?;
    Ok(text)
}

fn shown(file: &str) -> &str {
    if file == "-" { "stdin" } else { file }
}
