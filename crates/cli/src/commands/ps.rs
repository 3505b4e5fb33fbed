//! `ps` and `kill`.

use clap::Args;
use jiff::Timestamp;

use crate::{
    domain::jobs::{self, Listing},
    output,
    session::Session,
};

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Also jobs that ended (`-a` alone means this, too)
    #[arg(long)]
    all: bool,
    /// Only jobs of this process type; `run` for one-off jobs
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only jobs of this host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Also the command of each job
    #[arg(long)]
    command: bool,
    /// Only the ids
    #[arg(short, long)]
    quiet: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Ids of jobs, or the beginnings of them
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<String>,
}

pub(crate) async fn list(session: &Session, args: &PsArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let all = match args.all {
        true => target.controller.jobs(&target.name).await,
        false => target.controller.current_jobs(&target.name).await,
    };
    let all = all.map_err(|err| target.explained(err))?;
    let listing = Listing { all: args.all, kind: args.kind.as_deref(), command: args.command };
    let mut listed = jobs::listed(&all, listing);
    if let Some(host) = &args.host {
        listed.retain(|job| job.host_id.as_ref() == Some(host));
    }
    if args.json {
        return output::json(&listed);
    }
    if args.quiet {
        let ids: String = listed.iter().map(|job| format!("{}\n", job.id)).collect();
        return Ok(output::text(&ids)?);
    }
    if listed.is_empty() {
        output::say("No jobs. `flynn scale` shows how many there shall be.");
        return Ok(());
    }
    Ok(output::text(&jobs::render(&listed, listing, Timestamp::now()))?)
}

pub(crate) async fn kill(session: &Session, args: &KillArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let all = target.controller.current_jobs(&target.name).await;
    let all = all.map_err(|err| target.explained(err))?;
    // All are looked up first, so that a slip in one kills none.
    let found: Result<Vec<_>, _> = args.jobs.iter().map(|typed| jobs::find(&all, typed)).collect();
    for job in found? {
        target.controller.delete_job(&target.name, &job.id).await?;
        output::say(&format!("Job {} killed.", job.id));
    }
    Ok(())
}
