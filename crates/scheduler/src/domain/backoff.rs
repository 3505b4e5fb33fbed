//! When a process that crashed is started again.

use jiff::{SignedDuration, Timestamp};

use super::job::{Ending, JobView};

/// Longest pause.
const CAP: SignedDuration = SignedDuration::from_secs(60);

/// A process that ran so long has recovered: its crashes are forgiven.
const FORGIVEN_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// The pause before a process is started again that was started again `restarts` times already: none the first time,
/// then 1 s, doubled with each, up to a minute.
pub fn pause(restarts: u32) -> SignedDuration {
    match restarts {
        0 => SignedDuration::ZERO,
        n => SignedDuration::from_secs(1 << (n - 1).min(6)).min(CAP),
    }
}

/// What the replacement of an ended job has to respect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replacement {
    /// Not to be started before.
    pub not_before: Timestamp,
    /// Times the process will have been started again.
    pub restarts: u32,
}

/// When a job that ended unasked may be replaced.
pub fn replacement(job: &JobView, ending: &Ending) -> Replacement {
    let recovered = ending
        .started_at
        .is_some_and(|started| ending.at.duration_since(started) >= FORGIVEN_AFTER);
    let before = if recovered { 0 } else { job.restarts };
    Replacement { not_before: ending.at + pause(before), restarts: before.saturating_add(1) }
}

/// Why a replacement waits, for the developer.
pub fn reason(ending: &Ending, wait: Replacement) -> String {
    let times = match wait.restarts {
        1 => "it ended".to_owned(),
        n => format!("it ended {n} times"),
    };
    let how = match (ending.exit_status, &ending.error) {
        (_, Some(error)) => format!(": {error}"),
        (Some(status), None) => format!(" with exit status {status}"),
        (None, None) => String::new(),
    };
    let last = if wait.restarts == 1 { "" } else { ", the last time" };
    format!("{times}{last}{how}; see its log. It is tried again at {:.0}", wait.not_before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_from_a_second_to_a_minute_after_one_restart_at_once() {
        let pauses: Vec<_> = (0..9).map(|n| pause(n).as_secs()).collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX), CAP);
    }
}
