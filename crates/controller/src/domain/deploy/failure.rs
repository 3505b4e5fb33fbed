//! Why a deployment goes back, and the sentence that says so.

use std::time::Duration;

use api::controller::Job;

/// Longest line of a job's log that is told, in bytes.
const LINE: usize = 1024;
/// Lines of it that are told.
pub(crate) const LINES: u32 = 50;

/// Why a deployment fails.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Failure {
    /// Jobs ended again and again.
    Crashed {
        /// The last of them.
        job: Box<Job>,
        /// How many.
        times: u32,
    },
    /// A job never passed its check.
    NeverServed(Box<Job>),
    /// A step took too long.
    TimedOut {
        /// Types that were waited for.
        kinds: Vec<String>,
        /// A job that does not serve, if there is one.
        job: Option<Box<Job>>,
        /// How long.
        limit: Duration,
    },
    /// The whole took too long, although each step came to an end.
    Overdue {
        /// A job that does not serve, if there is one.
        job: Option<Box<Job>>,
        /// How long.
        bound: Duration,
    },
    /// Another push was there first.
    Overtaken,
    /// The database refuses what a step writes: the same again would be refused again.
    Refused,
}

impl Failure {
    /// The job whose log says more.
    pub(crate) fn job(&self) -> Option<&Job> {
        match self {
            Self::Crashed { job, .. } | Self::NeverServed(job) => Some(job),
            Self::TimedOut { job, .. } | Self::Overdue { job, .. } => job.as_deref(),
            Self::Overtaken | Self::Refused => None,
        }
    }

    /// The sentence for the developer.
    pub(crate) fn sentence(&self, old_serves: bool) -> String {
        let text = match self {
            Self::Crashed { job, times } => {
                format!("the new {} process ended {times} times{}", job.kind, because(job))
            }
            Self::NeverServed(job) => {
                format!("the new {} process did not come to serve{}", job.kind, because(job))
            }
            Self::TimedOut { kinds, job, limit } => format!(
                "the new {} process did not serve within {} s{}",
                kinds.join(" and "),
                limit.as_secs(),
                job.as_deref().map(because).unwrap_or_default()
            ),
            Self::Overdue { job, bound } => format!(
                "the deployment was not over within {} s{}",
                bound.as_secs(),
                job.as_deref().map(because).unwrap_or_default()
            ),
            Self::Overtaken => {
                "another push changed the repository meanwhile: fetch, merge and push \
                                again"
                    .into()
            }
            Self::Refused => {
                "the database refused a step of it; the controller's log says more".into()
            }
        };
        let end = if old_serves { "the old release keeps serving" } else { "nothing was changed" };
        format!("{}; {end}", shown(&text))
    }
}

fn because(job: &Job) -> String {
    match (&job.host_error, job.exit_status) {
        (Some(error), _) => format!(": {error}"),
        (None, Some(status)) => format!(": it exited with status {status}"),
        (None, None) => String::new(),
    }
}

/// A line as people may see it: bounded, and without what a terminal would obey.
pub(crate) fn shown(line: &str) -> String {
    let mut text = String::new();
    for char in line.chars() {
        match char {
            '\t' => text.push(char),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => {
                text += &format!("\\x{:02x}", u32::from(char));
            }
            _ => text.push(char),
        }
        if text.len() >= LINE {
            text += "…";
            break;
        }
    }
    text
}

/// The last lines of a job's log, bounded.
pub(crate) fn last_lines(lines: &[String]) -> Option<String> {
    let from = lines.len().saturating_sub(LINES as usize);
    let lines: Vec<String> = lines[from..].iter().map(|line| shown(line)).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}
