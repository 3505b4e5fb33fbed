//! The end of a log that is made of several.

use std::collections::BTreeMap;

use api::controller::LogLine;
use jiff::Timestamp;

/// Bytes of one line besides its text.
const OVERHEAD: usize = 200;

/// The last lines of several logs, in the order of their times. A log keeps its own order, whatever its clock did.
#[derive(Debug)]
pub(crate) struct Tail {
    lines: BTreeMap<(Timestamp, usize, u64), LogLine>,
    most: usize,
    bytes: usize,
    most_bytes: usize,
}

impl Tail {
    /// Keeps so many lines, and so many bytes, at most.
    pub(crate) fn new(most: usize, most_bytes: usize) -> Self {
        Self { lines: BTreeMap::new(), most, bytes: 0, most_bytes }
    }

    /// Takes a line of a log: which log, the how manieth line, and the time it is sorted by.
    pub(crate) fn push(&mut self, log: usize, number: u64, at: Timestamp, line: LogLine) {
        self.bytes += line.msg.len() + OVERHEAD;
        self.lines.insert((at, log, number), line);
        while self.lines.len() > self.most || self.bytes > self.most_bytes {
            let Some((_, gone)) = self.lines.pop_first() else { return };
            self.bytes -= gone.msg.len() + OVERHEAD;
        }
    }

    /// The lines, oldest first.
    pub(crate) fn into_lines(self) -> impl Iterator<Item = LogLine> + Send {
        self.lines.into_values()
    }
}

/// How far a log has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The time of the last line.
    at: Timestamp,
    /// How many lines had that time: several may.
    lines: u32,
}

impl Seen {
    /// Nothing of a log, of which only what is written from now on is wanted.
    pub(crate) fn since(at: Timestamp) -> Self {
        Self { at, lines: 0 }
    }

    /// After one line more.
    pub(crate) fn and(seen: Option<Self>, at: Timestamp) -> Self {
        match seen {
            Some(seen) if seen.at == at => Self { at, lines: seen.lines + 1 },
            Some(seen) if seen.at > at => seen,
            _ => Self { at, lines: 1 },
        }
    }
}

/// Passes over what was read already, when a log is read again.
#[derive(Debug)]
pub(crate) struct Again {
    seen: Option<Seen>,
    met: u32,
}

impl Again {
    /// Reads again what was read so far.
    pub(crate) fn after(seen: Option<Seen>) -> Self {
        Self { seen, met: 0 }
    }

    /// Whether the next line is new. All after a new one are.
    pub(crate) fn is_new(&mut self, at: Timestamp) -> bool {
        let Some(seen) = self.seen else { return true };
        if at == seen.at {
            self.met += 1;
        }
        let new = at > seen.at || (at == seen.at && self.met > seen.lines);
        if new {
            self.seen = None;
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(job: usize, second: i64, msg: &str) -> LogLine {
        LogLine {
            host_id: "h".into(),
            job_id: format!("h-{job}"),
            process_type: "web".into(),
            stream: "stdout".into(),
            msg: msg.into(),
            timestamp: Timestamp::from_second(second).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn the_tail_is_the_end_of_what_all_logs_say_in_order(
            times in prop::collection::vec((0usize..4, 0i64..20), 0..60), most in 0usize..30,
        ) {
            let mut tail = Tail::new(most, usize::MAX);
            let mut all = Vec::new();
            for (number, (log, second)) in times.into_iter().enumerate() {
                let line = line(log, second, &number.to_string());
                tail.push(log, number as u64, line.timestamp, line.clone());
                all.push(((line.timestamp, log, number), line));
            }
            all.sort_by_key(|(key, _)| *key);
            let end = all.len().saturating_sub(most);
            let wanted: Vec<_> = all.into_iter().skip(end).map(|(_, line)| line).collect();
            prop_assert_eq!(tail.into_lines().collect::<Vec<_>>(), wanted);
        }

        #[test]
        fn what_is_read_again_is_told_once_also_where_lines_have_one_time(
            mut seconds in prop::collection::vec(0i64..6, 0..40), at in 0usize..40,
        ) {
            seconds.sort_unstable();
            let times: Vec<_> = seconds.iter().map(|s| Timestamp::from_second(*s).unwrap()).collect();
            let at = at.min(times.len());
            let seen = times[..at].iter().fold(None, |seen, time| Some(Seen::and(seen, *time)));
            let mut again = Again::after(seen);
            let new: Vec<_> = times.iter().filter(|time| again.is_new(**time)).copied().collect();
            prop_assert_eq!(&new[..], &times[at..]);
        }
    }

    #[test]
    fn the_tail_holds_no_more_than_its_bytes() {
        let mut tail = Tail::new(1000, 10_000);
        for number in 0..100 {
            let line = line(0, number, &"x".repeat(800));
            tail.push(0, 0, line.timestamp, line);
        }
        assert_eq!(tail.into_lines().count(), 10);
    }
}
