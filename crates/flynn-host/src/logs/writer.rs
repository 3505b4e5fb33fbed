use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{Reader, Record, segment, segments};
use crate::domain::mux::Out;

/// A segment is closed when it is larger.
const SEGMENT: u64 = 2 << 20;
/// So many segments are kept: 10 MiB a job.
const SEGMENTS: usize = 5;

/// Appends to a job's log. There is one a log.
#[derive(Debug)]
pub(crate) struct Writer {
    folder: PathBuf,
    file: File,
    size: u64,
    next: u64,
    last_at: Option<Timestamp>,
    limit: u64,
}

impl Writer {
    /// Opens a log, or begins one.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        Self::open_with(folder, SEGMENT)
    }

    fn open_with(folder: &Path, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let first = segments(folder)?.pop().unwrap_or(1);
        let path = segment(folder, first);
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(err) if err.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(err) => return Err(err),
        };
        // Power failed in the middle of a line.
        let whole = content.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        file.set_len(whole as u64)?;
        let records = content[..whole].split(|&b| b == b'\n').rev();
        let last = records.filter_map(|l| serde_json::from_slice::<Record>(l).ok()).next();
        Ok(Self {
            folder: folder.into(),
            file,
            size: whole as u64,
            next: last.as_ref().map_or(first, |last| last.number + 1),
            last_at: last.map(|last| last.at),
            limit,
        })
    }

    /// Number of the last line; 0 if there is none.
    pub(crate) fn last(&self) -> u64 {
        self.next - 1
    }

    /// When the last line was read.
    pub(crate) fn last_at(&self) -> Option<Timestamp> {
        self.last_at
    }

    /// The last lines, at most `count`.
    pub(crate) fn tail(&self, count: u64) -> io::Result<Vec<Record>> {
        let mut reader = Reader::new(&self.folder, self.next.saturating_sub(count).max(1));
        let mut all = Vec::new();
        loop {
            let more = reader.read()?;
            if more.is_empty() {
                return Ok(all);
            }
            all.extend(more);
        }
    }

    /// Appends lines.
    pub(crate) fn append(
        &mut self,
        lines: impl IntoIterator<Item = (Out, Timestamp, String)>,
    ) -> io::Result<()> {
        let lines = lines.into_iter();
        self.write(lines.map(|(out, at, text)| (out == Out::Stderr, false, at, text)))
    }

    /// Appends a line of the host's own, which reads like one of stderr.
    pub(crate) fn append_own(&mut self, at: Timestamp, text: String) -> io::Result<()> {
        self.write([(true, true, at, text)])
    }

    fn write(
        &mut self,
        lines: impl IntoIterator<Item = (bool, bool, Timestamp, String)>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut next = self.next;
        for (stderr, by_host, at, text) in lines {
            let record = Record { number: next, at, stderr, by_host, text };
            serde_json::to_writer(&mut bytes, &record)?;
            bytes.push(b'\n');
            next += 1;
            self.last_at = Some(at);
        }
        if self.size > 0 && self.size + bytes.len() as u64 > self.limit {
            self.rotate()?;
        }
        if let Err(err) = self.file.write_all(&bytes) {
            self.keep_whole_lines(&bytes)?;
            return Err(err);
        }
        self.size += bytes.len() as u64;
        self.next = next;
        Ok(())
    }

    /// Of lines that did not all fit on the disk the first are there, and one may be torn.
    fn keep_whole_lines(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.metadata()?.len().saturating_sub(self.size);
        let written = usize::try_from(written).unwrap_or(usize::MAX).min(bytes.len());
        let whole = bytes[..written].iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        self.next += bytes[..whole].iter().filter(|&&b| b == b'\n').count() as u64;
        self.size += whole as u64;
        self.file.set_len(self.size)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = segment(&self.folder, self.next);
        self.file = OpenOptions::new().create(true).append(true).open(path)?;
        self.size = 0;
        let firsts = segments(&self.folder)?;
        for &first in &firsts[..firsts.len().saturating_sub(SEGMENTS)] {
            fs::remove_file(segment(&self.folder, first))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(writer: &mut Writer, texts: std::ops::Range<u64>) {
        for n in texts {
            let out = if n % 2 == 0 { Out::Stdout } else { Out::Stderr };
            writer.append([(out, Timestamp::UNIX_EPOCH, format!("line {n}"))]).unwrap();
        }
    }

    #[test]
    fn lines_are_numbered_on_after_the_log_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        write(&mut Writer::open(dir.path()).unwrap(), 1..4);
        let mut writer = Writer::open(dir.path()).unwrap();
        assert_eq!(writer.last(), 3);
        write(&mut writer, 4..6);
        let tail = writer.tail(3).unwrap();
        let tail: Vec<(u64, &str)> = tail.iter().map(|r| (r.number, r.text.as_str())).collect();
        assert_eq!(tail, [(3, "line 3"), (4, "line 4"), (5, "line 5")]);
    }

    #[test]
    fn a_torn_last_line_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        write(&mut Writer::open(dir.path()).unwrap(), 1..3);
        let path = segment(dir.path(), 1);
        let content = fs::read(&path).unwrap();
        fs::write(&path, &content[..content.len() - 4]).unwrap();
        let mut writer = Writer::open(dir.path()).unwrap();
        assert_eq!(writer.last(), 1);
        write(&mut writer, 2..3);
        assert_eq!(writer.tail(9).unwrap().len(), 2);
    }

    #[test]
    fn the_oldest_segments_go_and_the_numbers_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open_with(dir.path(), 200).unwrap();
        write(&mut writer, 1..101);
        assert_eq!(segments(dir.path()).unwrap().len(), SEGMENTS);
        let kept = writer.tail(1000).unwrap();
        let numbers: Vec<u64> = kept.iter().map(|record| record.number).collect();
        let first = numbers[0];
        assert!(first > 50, "{first}");
        assert_eq!(numbers, (first..=100).collect::<Vec<_>>());
    }
}
