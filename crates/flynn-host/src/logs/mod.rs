//! What jobs wrote, kept by the host itself: numbered lines in files of bounded size and number.
//!
//! A job's log is a folder of segments, each named by the number of its first line, each a JSON object a line. The
//! writer cuts a torn last line off when it opens a log again, and removes the oldest segment when there are too many.
//! Readers hold no lock: they take only whole lines, and go on with the next segment when one ends.

mod reader;
mod writer;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use api::id::JobId;
use jiff::Timestamp;
pub(crate) use reader::Reader;
use serde::{Deserialize, Serialize};
pub(crate) use writer::Writer;

use crate::domain::mux::Out;

/// Logs of ended jobs are kept so long at most.
const LONGEST_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// And so many.
const MOST_KEPT: usize = 500;
/// So many while the host is short of disk.
const KEPT_WHEN_SHORT: usize = 20;

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its number, from 1.
    #[serde(rename = "n")]
    pub(crate) number: u64,
    /// When it was read.
    #[serde(rename = "t")]
    pub(crate) at: Timestamp,
    /// Written to stderr.
    #[serde(rename = "e", default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) stderr: bool,
    /// Written by the host: the engine's log has no such line.
    #[serde(rename = "h", default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) by_host: bool,
    /// The line, without its end.
    #[serde(rename = "m")]
    pub(crate) text: String,
}

impl Record {
    /// Which output.
    pub(crate) fn out(&self) -> Out {
        if self.stderr { Out::Stderr } else { Out::Stdout }
    }
}

/// Folder of a job's log.
pub(crate) fn folder(logs: &Path, job: JobId) -> PathBuf {
    logs.join(job.to_string())
}

/// Numbers of the first lines of a log's segments, in order.
fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(firsts),
        Err(err) => return Err(err),
    };
    for entry in entries {
        let name = entry?.file_name();
        let first = name.to_str().and_then(|name| name.strip_suffix(".log"));
        firsts.extend(first.and_then(|first| first.parse::<u64>().ok()));
    }
    firsts.sort_unstable();
    Ok(firsts)
}

fn segment(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.log"))
}

/// Removes logs of jobs that `keep` does not name: the old ones, and the oldest of too many, which are fewer while the host
/// is `short` of disk.
pub(crate) fn sweep(logs: &Path, short: bool, keep: &dyn Fn(JobId) -> bool) -> io::Result<()> {
    let mut ended: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(logs)? {
        let entry = entry?;
        let job = entry.file_name().to_str().and_then(|name| name.parse::<JobId>().ok());
        if job.is_some_and(|job| !keep(job)) {
            ended.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    ended.sort();
    let most = if short { KEPT_WHEN_SHORT } else { MOST_KEPT };
    let surplus = ended.len().saturating_sub(most);
    for (n, (modified, path)) in ended.into_iter().enumerate() {
        let old = modified.elapsed().is_ok_and(|age| age > LONGEST_KEPT);
        if n < surplus || old {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Number of a log's last line; 0 if there is none.
pub(crate) fn last_line(folder: &Path) -> io::Result<u64> {
    let Some(first) = segments(folder)?.pop() else { return Ok(0) };
    let mut reader = Reader::new(folder, first);
    let mut last = first.saturating_sub(1);
    loop {
        match reader.read()?.last() {
            Some(record) => last = record.number,
            None => return Ok(last),
        }
    }
}
