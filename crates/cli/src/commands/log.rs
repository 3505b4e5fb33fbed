//! `log`.

use std::time::Duration;

use anyhow::Context;
use api::controller::LogLine;
use clap::Args;
use controller_client::{Error, LogQuery};
use futures_util::StreamExt;
use jiff::Timestamp;

use super::follow::while_there;
use crate::{
    domain::{jobs, log::with_source},
    output,
    session::{AppSession, Session},
};

/// Lines of an app's log shown where nobody says how many.
const APP_LINES: u32 = 100;
/// Lines asked for again after a lost connection, to find what was missed.
const CATCH_UP: u32 = 1000;
/// Pause before a lost connection is made again.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines; 100 if left out, all of a single job
    #[arg(short = 'n', long, alias = "number", value_name = "N")]
    lines: Option<u32>,
    /// What the jobs wrote to stderr goes to stderr
    #[arg(short, long)]
    split_stderr: bool,
    /// Only jobs of this process type; `run` for one-off jobs
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The lines as they are, without time and job
    #[arg(short, long)]
    raw_output: bool,
    /// As JSON, a line a line
    #[arg(long)]
    json: bool,
    /// Only this job; its id or the beginning of it
    #[arg(short = 'j', long = "job", value_name = "JOB", conflicts_with = "job")]
    job_option: Option<String>,
    /// Only this job; its id or the beginning of it
    job: Option<String>,
}

pub(crate) async fn log(session: &Session, args: &LogArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let job = match args.job.as_ref().or(args.job_option.as_ref()) {
        Some(typed) => Some(job_id(&target, typed).await?),
        None => None,
    };
    let lines = args.lines.or(if job.is_some() { None } else { Some(APP_LINES) });
    let kind = args.kind.as_deref().map(|kind| if kind == "run" { "" } else { kind });
    let query =
        LogQuery { job_id: job, process_type: kind.map(str::to_owned), lines, follow: args.follow };
    if !args.follow {
        return show(&target, args, query).await;
    }
    // By its id: another app may be given the name.
    let app = target.app().await?.id;
    let target = AppSession { name: app.to_string(), ..target };
    while_there(&target.controller, app, show(&target, args, query)).await
}

async fn job_id(target: &AppSession, typed: &str) -> anyhow::Result<String> {
    // A whole id may be of a job so old that the controller has forgotten it; its host may still have the log.
    if typed.parse::<api::id::ClusterJobId>().is_ok() {
        return Ok(typed.to_owned());
    }
    let all = target.controller.jobs(&target.name).await;
    let all = all.map_err(|err| target.explained(err))?;
    Ok(jobs::find(&all, typed)?.id.clone())
}

/// Shows the lines; while following, takes up a lost connection where it broke off.
async fn show(target: &AppSession, args: &LogArgs, mut query: LogQuery) -> anyhow::Result<()> {
    let single = query.job_id.is_some();
    let mut shown: Option<Timestamp> = None;
    let mut connected = false;
    loop {
        let ended = match target.controller.log(&target.name, &query).await {
            Ok(lines) => {
                connected = true;
                let mut lines = Box::pin(lines);
                let skip = shown;
                loop {
                    match lines.next().await {
                        Some(Ok(line)) if skip.is_some_and(|last| line.timestamp <= last) => {}
                        Some(Ok(line)) => {
                            print(&line, args, single)?;
                            shown = Some(line.timestamp);
                        }
                        Some(Err(err)) => break Some(err),
                        None => break None,
                    }
                }
            }
            Err(err) => Some(err),
        };
        match ended {
            None if !args.follow => return Ok(()),
            // The controller ends the stream with the job, but also with itself.
            None if has_ended(target, &query).await => return Ok(()),
            Some(err) if err.is_not_found() => return Err(missing(target, &query, err).await),
            Some(err) if !(args.follow && connected && err.is_retryable()) => {
                return Err(err).context("reading the log");
            }
            _ => {}
        }
        tokio::time::sleep(PAUSE).await;
        query.lines =
            Some(if shown.is_some() { CATCH_UP } else { query.lines.unwrap_or(CATCH_UP) });
    }
}

/// Whether the only job whose log is followed has ended.
async fn has_ended(target: &AppSession, query: &LogQuery) -> bool {
    let Some(job) = &query.job_id else { return false };
    let known = target.controller.job(&target.name, job).await;
    known.map_or_else(|err| err.is_not_found(), |job| !jobs::is_live(&job))
}

/// Whether it is the app or the job that is not there.
async fn missing(target: &AppSession, query: &LogQuery, err: Error) -> anyhow::Error {
    match (&query.job_id, target.app().await) {
        (_, Err(err)) => err,
        (Some(job), Ok(_)) => {
            anyhow::anyhow!("there is no log of job {job}; `flynn ps -a` lists the jobs")
        }
        (None, Ok(_)) => err.into(),
    }
}

fn print(line: &LogLine, args: &LogArgs, single: bool) -> anyhow::Result<()> {
    if args.json {
        return Ok(output::data(&serde_json::to_string(line)?)?);
    }
    let text = if single || args.raw_output { line.msg.clone() } else { with_source(line) };
    if args.split_stderr && line.stream == "stderr" {
        output::say(&text);
        return Ok(());
    }
    Ok(output::data(&text)?)
}
