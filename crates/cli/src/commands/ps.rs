//! `ps` and `kill`.

use anyhow::ensure;
use api::controller::{Deployment, Formation, Job, JobState};
use clap::Args;
use controller_client::Error;
use jiff::Timestamp;

use crate::{
    domain::jobs::{self, Listing},
    output,
    session::{AppSession, Session},
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
    let wanted = Wanted::look(&target, &all).await?;
    let mut listed = jobs::listed(&all, listing, |job| wanted.includes(job));
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
    let found = found?;
    let mut failed = Vec::new();
    for job in &found {
        match end(&target, job).await {
            Ok(said) => output::say(&format!("Job {} {said}.", job.id)),
            Err(err) if found.len() == 1 => return Err(err.into()),
            Err(err) => failed.push(format!("job {} was not killed: {err}", job.id)),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// Has a job be dead, and says how it came to be.
async fn end(target: &AppSession, job: &Job) -> Result<&'static str, Error> {
    const OVER: &str = "had ended already";
    if !jobs::is_live(job) {
        return Ok(OVER);
    }
    let Err(err) = target.controller.delete_job(&target.name, &job.id).await else {
        return Ok("killed");
    };
    match target.controller.job(&target.name, &job.id).await {
        Ok(now) if !jobs::is_live(&now) => Ok(OVER),
        Err(gone) if gone.is_not_found() => Ok(OVER),
        _ => Err(err),
    }
}

/// What shall run, looked at only if some job does not that may be wanted.
#[derive(Debug, Default)]
struct Wanted {
    formations: Vec<Formation>,
    deployments: Vec<Deployment>,
}

impl Wanted {
    async fn look(target: &AppSession, jobs: &[Job]) -> anyhow::Result<Self> {
        if jobs.iter().all(|job| job.state != JobState::Crashed) {
            return Ok(Self::default());
        }
        Ok(Self {
            formations: target.controller.formations(&target.name).await?,
            deployments: target.controller.deployments(&target.name).await?,
        })
    }

    fn includes(&self, job: &Job) -> bool {
        jobs::is_wanted(job, &self.formations, &self.deployments)
    }
}
