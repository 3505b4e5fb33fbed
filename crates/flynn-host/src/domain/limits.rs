//! What is said and done when a job passes a limit.

use std::time::Duration;

/// An end so soon after the kernel killed something for memory is taken for its consequence, whatever its status: a
/// process whose child is killed may end with a status of its own.
const CONSEQUENCE: Duration = Duration::from_secs(2);
/// Measuring all jobs of a host together takes one part in so many of the time.
const MEASURING_SHARE: u32 = 10;
/// The longest rest after measuring one job.
const LONGEST_REST: Duration = Duration::from_secs(120);

/// Whether an unasked end is for want of memory. `flagged` is the engine's word on the container's whole life, in which
/// something may have been killed long ago; `since_killed` is what this daemon saw itself.
pub(crate) fn died_of_memory(status: i32, flagged: bool, since_killed: Option<Duration>) -> bool {
    match since_killed {
        Some(ago) => status != 0 && ago <= CONSEQUENCE,
        None => status != 0 && flagged,
    }
}

/// How long the measuring of layers rests after one that took so long: the engine walks every file of it.
pub(crate) fn rest(took: Duration) -> Duration {
    took.saturating_mul(MEASURING_SHARE - 1).min(LONGEST_REST)
}

/// Said of a job that ended for want of memory.
pub(crate) fn memory_sentence(limit: u64) -> String {
    let limit = limit >> 20;
    format!(
        "it used more memory than its limit of {limit} MiB and was killed; raise the limit or use less"
    )
}

/// Said in a job's log when the kernel killed one of its processes, be it the first or another.
pub(crate) fn killed_sentence(limit: u64) -> String {
    let limit = limit >> 20;
    format!(
        "a process was killed: the job used more memory than its limit of {limit} MiB; \
         raise the limit or use less"
    )
}

/// How often a process was refused, by a cgroup's `pids.events`.
pub(crate) fn refusals(events: &str) -> Option<u64> {
    events.lines().find_map(|line| line.strip_prefix("max ")?.trim().parse().ok())
}

/// Whether a job may have passed its limit since it was measured, given what the disk it writes to lost meanwhile.
pub(crate) fn may_have_passed(limit: u64, used: u64, free_then: u64, free_now: u64) -> bool {
    free_then.saturating_sub(free_now) > limit.saturating_sub(used)
}

/// Said of a job that nested folders so deep that nobody can say how much they take.
pub(crate) const TOO_DEEP: &str = "it made folders in each other, deeper than can be measured, in a volume of its image, \
     and was stopped";

/// Said in a job's log when it has as many processes as it may.
pub(crate) fn processes_sentence(limit: u32) -> String {
    format!(
        "it has reached its limit of {limit} processes and threads, and no more were started; \
         raise max_procs or start fewer"
    )
}

/// Said of a job that wrote too much.
pub(crate) fn disk_sentence(used: u64, limit: u64) -> String {
    let (used, limit) = (used >> 20, limit >> 20);
    format!(
        "it wrote {used} MiB of files outside its volumes, above its limit of {limit} MiB, and was stopped; \
         raise temp_disk or write less"
    )
}

/// Said of a job that ran too long.
pub(crate) fn time_sentence(limit: Duration) -> String {
    let limit = humantime::format_duration(limit);
    format!("it ran for {limit}, which is its time limit, and was stopped; ask for a longer one")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_end_is_for_want_of_memory_only_if_something_was_killed_for_it() {
        let soon = Some(Duration::from_millis(50));
        let long_ago = Some(Duration::from_secs(3600));
        assert!(died_of_memory(137, true, None));
        assert!(died_of_memory(137, false, soon));
        assert!(died_of_memory(1, false, soon), "its child was killed, and it gave up");
        assert!(!died_of_memory(1, true, long_ago), "a child was, an hour before");
        assert!(!died_of_memory(137, false, None), "somebody else killed it");
    }

    #[test]
    fn refusals_are_counted_by_the_kernel() {
        assert_eq!(refusals("max 7\n"), Some(7));
        assert_eq!(refusals("max.imposed 1\nmax 0\n"), Some(0));
        assert_eq!(refusals("oom 7\n"), None);
    }

    proptest! {
        #[test]
        fn a_job_that_passes_its_limit_is_looked_at_at_once(
            used in 0u64..1000, wrote in 0u64..1000, others in 0u64..1000, limit in 0u64..1000,
        ) {
            let then = 10_000;
            if used + wrote > limit {
                prop_assert!(may_have_passed(limit, used.min(limit), then, then - wrote - others)
                    || used > limit || wrote + others <= limit - used);
            }
            prop_assert!(!may_have_passed(limit, used, then, then + others), "nobody wrote anything");
        }

        #[test]
        fn who_ends_well_did_not_die(flagged: bool, ago in prop::option::of(0u64..9)) {
            prop_assert!(!died_of_memory(0, flagged, ago.map(Duration::from_secs)));
        }

        #[test]
        fn measuring_takes_its_share_of_the_time_at_most(took in 0u64..13_000) {
            let took = Duration::from_millis(took);
            prop_assert!(took * MEASURING_SHARE <= took + rest(took));
        }
    }
}
