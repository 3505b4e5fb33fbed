use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{Record, segment, segments};

/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// Reads a job's log from a line on, also while it is written.
#[derive(Debug)]
pub(crate) struct Reader {
    folder: PathBuf,
    next: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    first: u64,
    file: File,
    offset: u64,
}

impl Reader {
    /// Begins with line `first`, or the first that is kept.
    pub(crate) fn new(folder: &Path, first: u64) -> Self {
        Self { folder: folder.into(), next: first, open: None }
    }

    /// The next lines; none if there are no more for now. Call it off the runtime's threads.
    pub(crate) fn read(&mut self) -> io::Result<Vec<Record>> {
        let mut looked_again = false;
        loop {
            if self.open.is_none() && !self.open_segment()? {
                return Ok(Vec::new());
            }
            let Some(open) = &mut self.open else { return Ok(Vec::new()) };
            let lines = open.read()?;
            let ended = lines.is_empty();
            let wanted: Vec<Record> = lines
                .split(|&b| b == b'\n')
                .filter_map(|line| serde_json::from_slice::<Record>(line).ok())
                .filter(|record| record.number >= self.next)
                .collect();
            if let Some(last) = wanted.last() {
                self.next = last.number + 1;
                return Ok(wanted);
            }
            if ended {
                let first = open.first;
                if !segments(&self.folder)?.iter().any(|&other| other > first) {
                    return Ok(Vec::new());
                }
                // A line may have come between the two looks; the segment is closed for good now.
                if looked_again {
                    self.open_after(first)?;
                }
                looked_again = !looked_again;
            }
        }
    }

    /// Opens the segment that holds the next line, or the oldest there is.
    fn open_segment(&mut self) -> io::Result<bool> {
        let firsts = segments(&self.folder)?;
        let holding = firsts.iter().rev().find(|&&first| first <= self.next);
        match holding.or(firsts.first()) {
            Some(&first) => self.open_at(first).map(|()| true),
            None => Ok(false),
        }
    }

    fn open_after(&mut self, first: u64) -> io::Result<()> {
        match segments(&self.folder)?.into_iter().find(|&other| other > first) {
            Some(next) => self.open_at(next),
            None => Ok(()),
        }
    }

    fn open_at(&mut self, first: u64) -> io::Result<()> {
        match File::open(segment(&self.folder, first)) {
            Ok(file) => self.open = Some(Open { first, file, offset: 0 }),
            // Removed just now: the next look finds a later one.
            Err(err) if err.kind() == io::ErrorKind::NotFound => self.open = None,
            Err(err) => return Err(err),
        }
        Ok(())
    }
}

impl Open {
    /// Whole lines from where the last look ended.
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut size = PIECE;
        loop {
            let mut piece = vec![0; size];
            let read = self.file.read_at(&mut piece, self.offset)?;
            piece.truncate(read);
            if let Some(end) = piece.iter().rposition(|&b| b == b'\n') {
                piece.truncate(end + 1);
                self.offset += piece.len() as u64;
                return Ok(piece);
            }
            if read < size {
                return Ok(Vec::new());
            }
            // A line is longer than a piece: escapes make up to six bytes of one.
            size *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{domain::mux::Out, logs::Writer};

    fn append(writer: &mut Writer, n: u64) {
        let text = format!("{n}-{}", "x".repeat(3000));
        writer.append([(Out::Stdout, Timestamp::UNIX_EPOCH, text)]).unwrap();
    }

    #[test]
    fn a_reader_follows_over_rotations_and_misses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path()).unwrap();
        let mut reader = Reader::new(dir.path(), 1);
        let mut numbers = Vec::new();
        for n in 1..=2000 {
            append(&mut writer, n);
            if n % 7 == 0 {
                numbers.extend(reader.read().unwrap().iter().map(|record| record.number));
            }
        }
        loop {
            let more = reader.read().unwrap();
            if more.is_empty() {
                break;
            }
            numbers.extend(more.iter().map(|record| record.number));
        }
        assert!(segments(dir.path()).unwrap().len() > 2);
        assert_eq!(numbers, (1..=2000).collect::<Vec<_>>());
    }

    #[test]
    fn a_reader_begins_where_it_is_told_and_takes_only_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path()).unwrap();
        for n in 1..=3 {
            append(&mut writer, n);
        }
        let path = segment(dir.path(), 1);
        let mut content = std::fs::read(&path).unwrap();
        content.extend(b"{\"n\":4,\"t\":");
        std::fs::write(&path, content).unwrap();
        let mut reader = Reader::new(dir.path(), 2);
        let numbers: Vec<u64> = reader.read().unwrap().iter().map(|record| record.number).collect();
        assert_eq!(numbers, [2, 3]);
        assert!(reader.read().unwrap().is_empty());
        assert!(Reader::new(&dir.path().join("none"), 1).read().unwrap().is_empty());
    }
}
