//! Hosts that are named and do not answer: nobody waits for them for good.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Who is to lead leaves a host out that did not answer for so long.
pub const TAKEOVER_PATIENCE: Duration = Duration::from_secs(10);
/// Who leads gives up a host after so long. Longer: its jobs are known, and are started elsewhere then.
pub const LEADING_PATIENCE: Duration = Duration::from_secs(30);

/// Since when which of the hosts do not answer. Times are those since any one beginning.
#[derive(Debug, Clone, Default)]
pub struct Silence {
    named: usize,
    since: BTreeMap<String, Duration>,
}

impl Silence {
    /// Takes who was asked at a time, and who of them answered.
    pub fn asked<'a>(
        &mut self,
        at: Duration,
        named: impl IntoIterator<Item = &'a str>,
        answered: &BTreeSet<&str>,
    ) {
        let before = std::mem::take(&mut self.since);
        self.named = 0;
        for id in named {
            self.named += 1;
            if !answered.contains(id) {
                self.since.insert(id.into(), before.get(id).copied().unwrap_or(at));
            }
        }
    }

    /// The hosts that did not answer for so long. Nobody, while those are more than half of all: then it is who asks that
    /// reaches nobody.
    pub fn left_out(&self, now: Duration, patience: Duration) -> BTreeSet<String> {
        let long = |since: Duration| now.saturating_sub(since) >= patience;
        let silent = self.since.iter().filter(|(_, since)| long(**since));
        let silent: BTreeSet<String> = silent.map(|(id, _)| id.clone()).collect();
        if silent.len() * 2 > self.named { BTreeSet::new() } else { silent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [&str; 3] = ["a", "b", "c"];

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn left_out(silence: &Silence, now: u64) -> Vec<String> {
        silence.left_out(at(now), TAKEOVER_PATIENCE).into_iter().collect()
    }

    #[test]
    fn a_host_that_does_not_answer_is_left_out_after_a_while_and_taken_back_when_it_does() {
        let mut silence = Silence::default();
        silence.asked(at(0), HOSTS, &["a", "b"].into());
        assert_eq!(left_out(&silence, 9), [""; 0]);
        silence.asked(at(5), HOSTS, &["a", "b"].into());
        assert_eq!(left_out(&silence, 10), ["c"]);
        silence.asked(at(11), HOSTS, &HOSTS.into());
        assert_eq!(left_out(&silence, 60), [""; 0]);
        silence.asked(at(60), HOSTS, &["a", "b"].into());
        assert_eq!(left_out(&silence, 61), [""; 0], "its time begins anew");
    }

    #[test]
    fn who_reaches_less_than_half_of_all_leaves_nobody_out() {
        let mut silence = Silence::default();
        silence.asked(at(0), HOSTS, &["a"].into());
        assert_eq!(left_out(&silence, 100), [""; 0]);
        silence.asked(at(100), ["a", "b"], &["a"].into());
        assert_eq!(left_out(&silence, 100), ["b"], "of two, one is half");
    }

    #[test]
    fn a_host_that_is_named_no_more_is_forgotten() {
        let mut silence = Silence::default();
        silence.asked(at(0), HOSTS, &["a", "b"].into());
        silence.asked(at(20), ["a", "b"], &["a", "b"].into());
        silence.asked(at(21), HOSTS, &["a", "b"].into());
        assert_eq!(left_out(&silence, 22), [""; 0]);
    }
}
