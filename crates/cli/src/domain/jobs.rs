//! Jobs as people see and name them.

use api::{
    controller::{Deployment, DeploymentStatus, Formation, Job, JobState},
    host::EndReason,
    id::ClusterJobId,
};
use jiff::Timestamp;

use super::{
    table,
    time::{ago, until},
};

/// Fewest letters of a job's id that are taken for it.
const SHORTEST: usize = 4;

/// How a state is called.
pub(crate) fn state(state: JobState) -> &'static str {
    match state {
        JobState::Pending => "pending",
        JobState::Starting => "starting",
        JobState::Up => "up",
        JobState::Stopping => "stopping",
        JobState::Down => "down",
        JobState::Crashed => "crashed",
    }
}

/// How a process type is called; one-off jobs have none.
pub(crate) fn kind_shown(kind: &str) -> &str {
    if kind.is_empty() { "run" } else { kind }
}

/// Whether the job runs or shall run.
pub(crate) fn is_live(job: &Job) -> bool {
    !job.state.is_over()
}

/// The first letters of the job part of `<host id>-<job id>`.
pub(crate) fn short(id: &str) -> String {
    uuid(id).chars().take(8).collect()
}

fn uuid(id: &str) -> String {
    id.parse::<ClusterJobId>().map_or_else(|_| id.replace('-', ""), |id| id.job.to_string())
}

/// No job, or more than one, is called so.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum FindError {
    #[error("there is no job {0:?}; `flynn ps -a` lists them")]
    None(String),
    #[error("several jobs begin with {0:?}; give more of the id")]
    Several(String),
}

/// The job that was meant: `<host id>-<job id>`, the job part, or the beginning of it.
pub(crate) fn find<'a>(jobs: &'a [Job], typed: &str) -> Result<&'a Job, FindError> {
    let part = uuid(typed);
    let exact = jobs.iter().find(|job| job.id == typed || job.uuid.to_string() == part);
    if let Some(job) = exact {
        return Ok(job);
    }
    let mut begins =
        jobs.iter().filter(|job| part.len() >= SHORTEST && job.uuid.to_string().starts_with(&part));
    match (begins.next(), begins.next()) {
        (Some(job), None) => Ok(job),
        (None, _) => Err(FindError::None(typed.into())),
        (Some(_), Some(_)) => Err(FindError::Several(typed.into())),
    }
}

/// What `flynn ps` was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Listing<'a> {
    /// Also jobs that ended.
    pub(crate) all: bool,
    /// Only this type.
    pub(crate) kind: Option<&'a str>,
    /// The command of every job.
    pub(crate) command: bool,
}

/// Whether jobs of its type and release shall run.
pub(crate) fn is_wanted(job: &Job, formations: &[Formation], deployments: &[Deployment]) -> bool {
    let scaled = |f: &Formation| {
        f.release == job.release && f.processes.get(&job.kind).is_some_and(|&count| count > 0)
    };
    let open = |d: &Deployment| {
        d.new_release == job.release
            && matches!(d.status, DeploymentStatus::Pending | DeploymentStatus::Running)
    };
    formations.iter().any(scaled) || deployments.iter().any(open)
}

/// The jobs to list, in order.
pub(crate) fn listed<'a>(
    jobs: &'a [Job],
    listing: Listing<'_>,
    wanted: impl Fn(&Job) -> bool,
) -> Vec<&'a Job> {
    let shown = |job: &&Job| {
        (listing.all || is_live(job) || is_unreplaced(job, jobs, &wanted))
            && listing.kind.is_none_or(|kind| kind_shown(&job.kind) == kind_shown(kind))
    };
    let mut listed: Vec<&Job> = jobs.iter().filter(shown).collect();
    listed.sort_by(|a, b| (&a.kind, a.created_at, &a.id).cmp(&(&b.kind, b.created_at, &b.id)));
    listed
}

/// Whether the job crashed, shall run, and nothing of its kind came after it: between a crash and the next try there would
/// be nothing to see otherwise.
fn is_unreplaced(job: &Job, jobs: &[Job], wanted: &impl Fn(&Job) -> bool) -> bool {
    let crashed = |job: &Job| job.state == JobState::Crashed && wanted(job);
    let later = |other: &Job| {
        other.id != job.id
            && other.kind == job.kind
            && other.created_at >= job.created_at
            && (is_live(other) || crashed(other))
    };
    crashed(job) && !job.kind.is_empty() && !jobs.iter().any(later)
}

/// The table of `flynn ps`. A job that is in trouble has a line below it that says which.
pub(crate) fn render(jobs: &[&Job], listing: Listing<'_>, now: Timestamp) -> String {
    let commands = listing.command || jobs.iter().any(|job| job.kind.is_empty());
    let rows: Vec<Vec<String>> = jobs.iter().map(|job| row(job, commands, now)).collect();
    let mut header = vec!["ID", "TYPE", "STATE", "CREATED", "RELEASE"];
    if commands {
        header.push("COMMAND");
    }
    let table = table::render(&header, &rows);
    let notes = std::iter::once(None).chain(jobs.iter().map(|job| trouble(job, now)));
    let lines = table.lines().zip(notes).map(|(line, note)| match note {
        Some(note) => format!("{line}\n  {}\n", table::plain(&note)),
        None => format!("{line}\n"),
    });
    lines.collect()
}

fn row(job: &Job, commands: bool, now: Timestamp) -> Vec<String> {
    let mut row = vec![
        job.id.clone(),
        kind_shown(&job.kind).to_owned(),
        state(job.state).to_owned(),
        job.created_at.map(|at| ago(at, now)).unwrap_or_default(),
        job.release.to_string(),
    ];
    if commands {
        row.push(job.args.join(" "));
    }
    row
}

/// What is wrong with the job, if anything is: how often it crashed, when it is tried again, why.
fn trouble(job: &Job, now: Timestamp) -> Option<String> {
    let waits = job.state == JobState::Pending;
    let times = match job.restarts {
        0 => None,
        1 => Some("started again once after a crash".to_owned()),
        n => Some(format!("started again {n} times after crashes")),
    };
    let next = job.run_at.filter(|_| waits).map(|at| format!("next try {}", until(at, now)));
    // Killed for its check, it did not choose its status.
    let own = !matches!(job.end_reason, Some(EndReason::CheckNeverPassed | EndReason::CheckFailed));
    let status = job.exit_status.filter(|_| job.state == JobState::Crashed && own);
    let status = status.map(|status| format!("exit status {status}"));
    let said = [times, next, status].into_iter().flatten().collect::<Vec<_>>().join(", ");
    let reason = job.host_error.as_deref().map(str::trim).filter(|text| !text.is_empty());
    match (said.is_empty(), reason) {
        (true, None) => None,
        (false, None) => Some(said),
        (true, Some(reason)) => Some(reason.to_owned()),
        (false, Some(reason)) => Some(format!("{said}: {reason}")),
    }
}

#[cfg(test)]
mod tests;
