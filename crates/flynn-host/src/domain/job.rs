//! The life of a job, as one function from what is and what was observed to what is then.
//!
//! ```text
//!  Starting ──started──► Starting ──up──► Running ──ended──► Done | Crashed      (not resurrect)
//!     ▲                                      │  └────ended───► Starting           (resurrect: again at once)
//!     └──────────────────────────────────────┘
//!  Running ──fails its check──► Starting ──up again──► Running
//!  Starting | Running ──told to stop──► Stopping ──ended──► Done
//!  Starting | Running ──made way──► Starting, at rest until its successor's trial is over
//!  Starting ──could not start──► Failed (resurrect: Starting, tried again)
//! ```

use std::time::Duration;

use api::host::{ActiveJob, EndReason, EventKind, Status};
use jiff::Timestamp;

/// Why a process ended, beyond its exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    /// For programs.
    pub(crate) reason: EndReason,
    /// For its owner, as a sentence.
    pub(crate) said: String,
}

/// What happened to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Observed {
    /// Its process was started in this container.
    Started {
        /// The engine's id.
        container: String,
        /// When, if that was before it was observed.
        at: Option<Timestamp>,
    },
    /// It passes its checks, and nobody can be told so yet.
    NotAnnounced {
        /// Why.
        because: String,
    },
    /// It passes its checks and the routers know it.
    Up,
    /// It served, and fails its check now: nobody is sent to it.
    Failing {
        /// What the check saw.
        because: String,
    },
    /// Somebody told it to stop.
    Ordered,
    /// Its process ended.
    Ended {
        /// Exit status, 128 + n for signal n.
        status: i32,
        /// Why the host ended it, or what else is known of the cause.
        because: Option<Cause>,
    },
    /// Why its process was killed is known only after its end.
    Explained {
        /// Why.
        because: Cause,
    },
    /// Its process was ended for another job that is to take its place, and it gets none meanwhile.
    MadeWay {
        /// Exit status.
        status: i32,
        /// For its owner.
        because: String,
    },
    /// No process could be started.
    NotStarted {
        /// Why.
        because: String,
    },
}

/// Changes the job and says which event that is, if it is one.
///
/// What arrives too late (an `Up` while it stops, anything after its end) changes nothing. One that is on trial in the
/// place of another is not started again.
pub(crate) fn after(
    job: &mut ActiveJob,
    observed: Observed,
    on_trial: bool,
    now: Timestamp,
) -> Option<EventKind> {
    match observed {
        Observed::Ended { status, because } => {
            let returns = job.job.resurrect && !on_trial;
            match job.status {
                Status::Starting | Status::Running => {
                    Some(ended_unasked(job, status, because, returns, now))
                }
                Status::Stopping => Some(stopped(job, Some(status), now)),
                Status::Done | Status::Crashed | Status::Failed => None,
            }
        }
        Observed::MadeWay { status, because } => match job.status {
            Status::Starting | Status::Running => {
                begins_again(job);
                job.error = Some(because);
                Some(EventKind::Error)
            }
            Status::Stopping => Some(stopped(job, Some(status), now)),
            Status::Done | Status::Crashed | Status::Failed => None,
        },
        Observed::NotStarted { because } => match job.status {
            Status::Starting | Status::Running => Some(not_started(job, because, on_trial, now)),
            Status::Stopping => Some(stopped(job, None, now)),
            Status::Done | Status::Crashed | Status::Failed => None,
        },
        Observed::Explained { because } => (job.status == Status::Crashed).then(|| {
            job.error = Some(because.said);
            job.end_reason = Some(because.reason);
            EventKind::Error
        }),
        lives => after_while_it_lives(job, lives, now),
    }
}

fn after_while_it_lives(
    job: &mut ActiveJob,
    observed: Observed,
    now: Timestamp,
) -> Option<EventKind> {
    match (job.status, observed) {
        (Status::Starting | Status::Stopping, Observed::Started { container, at }) => {
            job.container_id = container;
            job.started_at = Some(at.unwrap_or(now));
            (job.status == Status::Starting).then_some(EventKind::Start)
        }
        (Status::Starting, Observed::NotAnnounced { because }) => {
            let told = job.error.replace(because.clone());
            (told != Some(because)).then_some(EventKind::Error)
        }
        (Status::Starting, Observed::Up) => {
            job.status = Status::Running;
            job.error = None;
            job.exit_status = None;
            job.end_reason = None;
            Some(EventKind::Up)
        }
        (Status::Running, Observed::Failing { because }) => {
            job.status = Status::Starting;
            job.error = Some(because);
            Some(EventKind::Error)
        }
        (Status::Starting | Status::Running, Observed::Ordered) => {
            job.status = Status::Stopping;
            Some(EventKind::Stopping)
        }
        _ => None,
    }
}

fn stopped(job: &mut ActiveJob, status: Option<i32>, now: Timestamp) -> EventKind {
    job.exit_status = status.or(job.exit_status);
    job.end_reason = Some(EndReason::Stopped);
    over(job, Status::Done, now)
}

fn not_started(job: &mut ActiveJob, because: String, on_trial: bool, now: Timestamp) -> EventKind {
    job.error = Some(because);
    job.end_reason = Some(EndReason::NotStarted);
    if job.job.resurrect && !on_trial {
        again(job);
    } else {
        over(job, Status::Failed, now);
    }
    EventKind::Error
}

fn ended_unasked(
    job: &mut ActiveJob,
    status: i32,
    because: Option<Cause>,
    returns: bool,
    now: Timestamp,
) -> EventKind {
    job.exit_status = Some(status);
    let well = status == 0 && because.is_none();
    let exited = || Cause { reason: EndReason::Exited, said: sentence(status) };
    let Cause { reason, said } = because.unwrap_or_else(exited);
    job.error = (!well).then_some(said);
    job.end_reason = Some(reason);
    if returns {
        again(job);
        return EventKind::Create;
    }
    over(job, if well { Status::Done } else { Status::Crashed }, now)
}

fn begins_again(job: &mut ActiveJob) {
    job.status = Status::Starting;
    job.container_id = String::new();
    job.started_at = None;
}

fn again(job: &mut ActiveJob) {
    begins_again(job);
    job.host_restarts = job.host_restarts.saturating_add(1);
}

fn over(job: &mut ActiveJob, status: Status, now: Timestamp) -> EventKind {
    job.status = status;
    job.ended_at = Some(now);
    EventKind::Stop
}

fn sentence(status: i32) -> String {
    match status {
        137 => "its process was killed (status 137, signal 9)".into(),
        129..=192 => format!("its process ended by signal {} (status {status})", status - 128),
        _ => format!("its process ended with status {status}"),
    }
}

/// A process that ran so long was not part of a crash loop.
pub(crate) const STEADY: Duration = Duration::from_secs(60);
/// The cluster waits for these jobs, so the pause between two tries stays short.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long to wait before a job is started again that ended `crashes` times in a row before it was steady.
pub(crate) fn pause_before_restart(crashes: u32) -> Duration {
    match crashes {
        0 | 1 => Duration::ZERO,
        n => Duration::from_secs(1 << (n - 2).min(8)).min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use api::{host::Job, id::JobId};
    use proptest::prelude::*;

    use super::*;

    fn job(resurrect: bool) -> ActiveJob {
        let job: Job = serde_json::from_value(serde_json::json!({
            "id": JobId::random(), "image": "flynn/test", "resurrect": resurrect,
        }))
        .unwrap();
        ActiveJob {
            job,
            host_id: "h".into(),
            container_id: String::new(),
            internal_ip: None,
            status: Status::Starting,
            created_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            ended_at: None,
            exit_status: None,
            error: None,
            end_reason: None,
            host_restarts: 0,
        }
    }

    fn run(job: &mut ActiveJob, observed: Vec<Observed>) -> Vec<EventKind> {
        observed.into_iter().filter_map(|o| after(job, o, false, Timestamp::UNIX_EPOCH)).collect()
    }

    fn started() -> Observed {
        Observed::Started { container: "c".into(), at: None }
    }

    fn ended(status: i32) -> Observed {
        Observed::Ended { status, because: None }
    }

    #[test]
    fn a_job_that_ends_by_itself_is_done_or_crashed_by_its_status() {
        for (status, want) in [(0, Status::Done), (7, Status::Crashed), (137, Status::Crashed)] {
            let mut job = job(false);
            let events = run(&mut job, vec![started(), Observed::Up, ended(status)]);
            assert_eq!(events, [EventKind::Start, EventKind::Up, EventKind::Stop]);
            assert_eq!((job.status, job.exit_status), (want, Some(status)));
            assert_eq!(job.error.is_some(), status != 0);
        }
    }

    #[test]
    fn a_job_that_was_told_to_stop_is_done_whatever_its_status() {
        let mut job = job(true);
        let events = run(&mut job, vec![started(), Observed::Up, Observed::Ordered, ended(143)]);
        assert_eq!(events.last(), Some(&EventKind::Stop));
        assert_eq!(job.status, Status::Done);
        assert_eq!(job.error, None);
    }

    #[test]
    fn a_job_the_host_ended_for_a_reason_crashed_even_with_status_0() {
        let mut job = job(false);
        let said = "nothing listens on port 8080".to_owned();
        let because = Some(Cause { reason: EndReason::CheckNeverPassed, said: said.clone() });
        run(&mut job, vec![started(), Observed::Ended { status: 0, because }]);
        assert_eq!((job.status, job.error), (Status::Crashed, Some(said)));
        assert_eq!(job.end_reason, Some(EndReason::CheckNeverPassed));
    }

    #[test]
    fn a_resurrect_job_starts_again_until_it_is_told_to_stop() {
        let mut job = job(true);
        run(&mut job, vec![started(), Observed::Up, ended(1), started(), ended(0)]);
        assert_eq!((job.status, job.host_restarts), (Status::Starting, 2));
        run(&mut job, vec![Observed::NotStarted { because: "no image".into() }]);
        assert_eq!((job.status, job.host_restarts), (Status::Starting, 3));
        run(&mut job, vec![Observed::Ordered, Observed::NotStarted { because: String::new() }]);
        assert_eq!(job.status, Status::Done);
    }

    #[test]
    fn why_a_job_is_not_announced_is_told_once_and_forgotten_when_it_is_up() {
        let mut job = job(false);
        let away = || Observed::NotAnnounced { because: "etcd is away".into() };
        let events = run(&mut job, vec![started(), away(), away()]);
        assert_eq!(events, [EventKind::Start, EventKind::Error]);
        assert_eq!((job.status, job.error.as_deref()), (Status::Starting, Some("etcd is away")));
        assert_eq!(run(&mut job, vec![Observed::Up, away()]), [EventKind::Up]);
        assert_eq!((job.status, job.error), (Status::Running, None));
    }

    #[test]
    fn a_job_on_trial_is_not_started_again_and_one_that_made_way_is() {
        let now = Timestamp::UNIX_EPOCH;
        for observed in [ended(1), ended(0), Observed::NotStarted { because: "no image".into() }] {
            let mut new = job(true);
            after(&mut new, started(), true, now);
            after(&mut new, observed, true, now);
            assert!(!new.status.is_active());
        }
        let mut old = job(false);
        let way = || Observed::MadeWay { status: 143, because: "job n takes its place".into() };
        run(&mut old, vec![started(), Observed::Up, way()]);
        assert_eq!((old.status, old.started_at, old.host_restarts), (Status::Starting, None, 0));
        run(&mut old, vec![started(), Observed::Up]);
        assert_eq!((old.status, old.error.as_deref()), (Status::Running, None));
        run(&mut old, vec![Observed::Ordered, way()]);
        assert_eq!((old.status, old.end_reason), (Status::Done, Some(EndReason::Stopped)));
    }

    #[test]
    fn every_end_has_a_reason() {
        let stop = || vec![started(), Observed::Up, Observed::Ordered, ended(143)];
        let none = || Observed::NotStarted { because: "no image".into() };
        for (observed, reason) in [
            (vec![started(), Observed::Up, ended(0)], EndReason::Exited),
            (vec![started(), ended(1)], EndReason::Exited),
            (stop(), EndReason::Stopped),
            (vec![Observed::Ordered, none()], EndReason::Stopped),
            (vec![none()], EndReason::NotStarted),
        ] {
            for resurrect in [false, true] {
                let mut job = job(resurrect);
                run(&mut job, observed.clone());
                assert_eq!(job.end_reason, Some(reason), "{observed:?}");
            }
        }
        let mut again = job(true);
        run(&mut again, vec![started(), ended(1), started(), Observed::Up]);
        assert_eq!(again.end_reason, None, "it serves again");
    }

    #[test]
    fn a_job_that_fails_its_check_does_not_count_as_serving_until_it_passes_again() {
        let mut job = job(false);
        let fails = || Observed::Failing { because: "GET / was answered with status 500".into() };
        let events = run(&mut job, vec![started(), fails(), Observed::Up, fails(), fails()]);
        assert_eq!(events, [EventKind::Start, EventKind::Up, EventKind::Error]);
        assert_eq!(job.status, Status::Starting);
        assert!(job.error.is_some() && job.started_at.is_some());
        assert_eq!(run(&mut job, vec![Observed::Up]), [EventKind::Up]);
        assert_eq!((job.status, job.error), (Status::Running, None));
    }

    #[test]
    fn why_a_job_was_killed_may_be_known_after_its_end_only() {
        let memory = |said: &str| Cause { reason: EndReason::LimitExceeded, said: said.into() };
        let why = || Observed::Explained { because: memory("too much memory") };
        let mut killed = job(false);
        assert_eq!(
            run(&mut killed, vec![started(), why(), ended(137), why()])[1..],
            [EventKind::Stop, EventKind::Error]
        );
        assert_eq!(
            (killed.status, killed.error.as_deref()),
            (Status::Crashed, Some("too much memory"))
        );
        assert_eq!(killed.end_reason, Some(EndReason::LimitExceeded));
        let mut stopped = job(false);
        run(&mut stopped, vec![started(), Observed::Ordered, ended(137), why()]);
        assert_eq!((stopped.status, stopped.error), (Status::Done, None));
    }

    #[test]
    fn pauses_grow_and_stay_short() {
        let pauses: Vec<u64> = (0..8).map(|n| pause_before_restart(n).as_secs()).collect();
        assert_eq!(pauses, [0, 0, 1, 2, 4, 5, 5, 5]);
        assert_eq!(pause_before_restart(u32::MAX), LONGEST_PAUSE);
    }

    fn observed() -> impl Strategy<Value = Observed> {
        prop_oneof![
            Just(started()),
            Just(Observed::Up),
            Just(Observed::NotAnnounced { because: "etcd is away".into() }),
            Just(Observed::Failing { because: "it answers 500".into() }),
            Just(Observed::Ordered),
            (0i32..200).prop_map(ended),
            Just(Observed::NotStarted { because: "no image".into() }),
            (0i32..200).prop_map(|status| Observed::MadeWay { status, because: "n".into() }),
            Just(Observed::Explained {
                because: Cause { reason: EndReason::LimitExceeded, said: "it was killed".into() },
            }),
        ]
    }

    proptest! {
        #[test]
        fn the_end_is_final_and_comes_once(
            resurrect: bool,
            on_trial: bool,
            all in prop::collection::vec(observed(), 0..20),
        ) {
            let mut job = job(resurrect);
            let mut ends = 0;
            for one in all {
                let before = job.clone();
                let event = after(&mut job, one, on_trial, Timestamp::UNIX_EPOCH);
                if !before.status.is_active() {
                    // Only why is said again.
                    prop_assert!(event.is_none_or(|event| event == EventKind::Error));
                    let same = ActiveJob {
                        error: before.error.clone(),
                        end_reason: before.end_reason,
                        ..job.clone()
                    };
                    prop_assert_eq!(&before, &same);
                    continue;
                }
                if before.status.is_active() && !job.status.is_active() {
                    ends += 1;
                    prop_assert!(job.ended_at.is_some() && job.end_reason.is_some());
                }
            }
            prop_assert_eq!(ends, u32::from(!job.status.is_active()));
        }
    }
}
