//! `run`.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use api::{controller::NewJob, id::ReleaseId};
use clap::Args;

use crate::{
    attached::{self, Input, Stdout},
    output,
    session::{AppSession, Session, no_release},
    terminal,
};

/// Longest wait for the job to start: its host may have to make the image of the slug first.
const START_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Print the job's id and leave it alone
    #[arg(short, long)]
    detached: bool,
    /// Of a detached job: as JSON
    #[arg(long, requires = "detached")]
    json: bool,
    /// Of this release instead of the current one
    #[arg(short, long)]
    release: Option<ReleaseId>,
    /// End it after this time, such as 30m or 3days [default: 1day]
    #[arg(short, long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// What to run, in /app
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

pub(crate) async fn run(session: &Session, args: &RunArgs) -> anyhow::Result<ExitCode> {
    let target = session.app()?;
    let (app, release) = target.release_or_current(args.release).await?;
    // A release may have been made by env-set alone.
    if release.artifacts.is_empty() {
        bail!(no_release(&app.name));
    }
    let tty = !args.detached && terminal::is_interactive();
    let job = new_job(args, release.id, tty, session.globals.env_term.as_deref());
    if args.detached {
        let job = target.controller.run_job_detached(&target.name, &job).await?;
        match args.json {
            true => output::json(&job)?,
            false => output::data(&job.id)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let status = attach(&target, &job, tty).await?;
    Ok(ExitCode::from(exit_code(status)))
}

async fn attach(target: &AppSession, job: &NewJob, tty: bool) -> anyhow::Result<u32> {
    let connection = started(target.controller.run_job_attached(&target.name, job)).await??;
    let input = if tty { Input::Terminal } else { Input::Stdin };
    attached::converse(connection, input, Stdout::Apart).await
}

/// Waits for a job to run, not for ever.
pub(crate) async fn started<T>(starting: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(START_TIMEOUT, starting).await.with_context(|| {
        format!(
            "the job did not start within {} s; `flynn ps -a` shows why",
            START_TIMEOUT.as_secs()
        )
    })
}

fn new_job(args: &RunArgs, release: ReleaseId, tty: bool, term: Option<&str>) -> NewJob {
    let mut job = NewJob {
        release: Some(release),
        release_env: true,
        args: args.command.clone(),
        tty,
        timeout_seconds: args.timeout.map(whole_seconds),
        ..NewJob::default()
    };
    if tty {
        let (lines, columns) = terminal::size().unwrap_or((24, 80));
        (job.tty_lines, job.tty_columns) = (lines, columns);
        job.env = BTreeMap::from([
            ("COLUMNS".to_owned(), columns.to_string()),
            ("LINES".to_owned(), lines.to_string()),
            ("TERM".to_owned(), term.unwrap_or("xterm").to_owned()),
        ]);
    }
    job
}

/// A time in seconds; what is less than one is one.
fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

/// The status of the job as a status of ours: never 0 for what was not 0.
pub(crate) fn exit_code(status: u32) -> u8 {
    let low = status.to_le_bytes()[0];
    if low == 0 && status != 0 { 1 } else { low }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_never_none() {
        let seconds = |text| whole_seconds(humantime::parse_duration(text).unwrap());
        assert_eq!((seconds("10ms"), seconds("1500ms"), seconds("30m")), (1, 2, 1800));
        assert_eq!(seconds("9999years"), u32::MAX);
    }

    #[test]
    fn a_failure_never_becomes_a_success() {
        for (status, code) in [(0, 0), (7, 7), (137, 137), (256, 1), (u32::MAX, 255)] {
            assert_eq!(exit_code(status), code);
        }
    }
}
