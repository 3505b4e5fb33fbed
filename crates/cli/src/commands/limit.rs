//! `limit` and `limit-set`.

use clap::Args;

use super::change::{change_release, process_of};
use crate::{
    args::Listing,
    domain::{limits, table},
    output,
    session::Session,
};

#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// Only this process type
    #[arg(short = 't', long = "process-type", value_name = "TYPE")]
    kind: Option<String>,
    /// As JSON; sizes in bytes
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Limits: memory, temp_disk (sizes, as 512MB), cpu (thousandths of a core, a weight when cores are \
                        short), max_fd (open files a process), max_procs. The value `default` takes a change back."
)]
pub(crate) struct SetArgs {
    /// The process type
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Limits and their values
    #[arg(required = true, value_name = "NAME=VALUE")]
    assignments: Vec<String>,
    #[command(flatten)]
    listing: Listing,
}

pub(crate) async fn list(session: &Session, args: &LimitArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let (_, release) = target.release().await?;
    let mut processes = release.processes;
    if let Some(kind) = &args.kind {
        processes.retain(|name, _| name == kind);
        anyhow::ensure!(!processes.is_empty(), "the release has no process type {kind:?}");
    }
    let all: std::collections::BTreeMap<_, _> = processes
        .into_iter()
        .map(|(kind, process)| (kind, process.limits.unwrap_or_default()))
        .collect();
    if args.json {
        return output::json(&all);
    }
    let rows: Vec<_> =
        all.iter().map(|(kind, limits)| vec![kind.clone(), limits::shown(limits)]).collect();
    Ok(output::text(&table::render(&["TYPE", "LIMITS"], &rows))?)
}

pub(crate) async fn set(session: &Session, args: &SetArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    change_release(&target, args.listing, |release| {
        let process = process_of(release, &args.kind)?;
        let before = process.limits.clone().unwrap_or_default();
        let after = limits::changed(before.clone(), &args.assignments)?;
        if after != before {
            process.limits = Some(after).filter(|limits| *limits != api::host::Limits::default());
        }
        Ok(())
    })
    .await
}
