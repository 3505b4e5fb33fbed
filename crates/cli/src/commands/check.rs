//! `check`, `check-set` and `check-unset`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::change::{change_release, process_of};
use crate::{
    args::Listing,
    domain::{
        checks::{self, CheckChange},
        table,
    },
    output,
    session::Session,
};

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// A connection can be made
    Tcp,
    /// A request is answered
    Http,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The process type
    #[arg(value_name = "TYPE")]
    process_type: String,
    /// How it is checked; as before if left out
    kind: Option<Kind>,
    /// Port of the service that is checked, if the process type offers several
    #[arg(short, long)]
    port: Option<u16>,
    /// Path of the request
    #[arg(long)]
    path: Option<String>,
    /// Status it must be answered with; any below 500 if never set
    #[arg(long)]
    status: Option<u16>,
    /// Kill and replace a process that fails its check after it has passed
    #[arg(long, overrides_with = "no_kill_on_failure")]
    kill_on_failure: bool,
    /// Only send nothing to it while it fails
    #[arg(long)]
    no_kill_on_failure: bool,
    /// How long a new process may take to pass, as 90s or 5m; 60 s if never set
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    start_timeout: Option<Duration>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct UnsetArgs {
    /// The process type
    #[arg(value_name = "TYPE")]
    process_type: String,
    /// Port of the service, if the process type offers several
    #[arg(short, long)]
    port: Option<u16>,
    #[command(flatten)]
    listing: Listing,
}

pub(crate) async fn list(session: &Session, args: &CheckArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let (_, release) = target.release().await?;
    if args.json {
        let ports: std::collections::BTreeMap<_, _> =
            release.processes.iter().map(|(kind, process)| (kind, &process.ports)).collect();
        return output::json(&ports);
    }
    let rows: Vec<_> =
        release.processes.iter().flat_map(|(kind, process)| checks::rows(kind, process)).collect();
    Ok(output::text(&table::render(&["TYPE", "PORT", "SERVICE", "CHECK"], &rows))?)
}

pub(crate) async fn set(session: &Session, args: &SetArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let kill_down = match (args.kill_on_failure, args.no_kill_on_failure) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let wanted = CheckChange {
        kind: args.kind.map(|kind| match kind {
            Kind::Tcp => "tcp",
            Kind::Http => "http",
        }),
        path: args.path.as_deref(),
        status: args.status,
        kill_down,
        start_timeout: args.start_timeout,
    };
    change_release(&target, args.listing, |release| {
        let process = process_of(release, &args.process_type)?;
        Ok(checks::change(&args.process_type, process, Some(&wanted), args.port)?)
    })
    .await
}

pub(crate) async fn unset(session: &Session, args: &UnsetArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    change_release(&target, args.listing, |release| {
        let process = process_of(release, &args.process_type)?;
        Ok(checks::change(&args.process_type, process, None, args.port)?)
    })
    .await
}
