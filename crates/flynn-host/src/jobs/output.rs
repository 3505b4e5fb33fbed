//! A job's output on its way from the engine to the log and to whoever is attached.
//!
//! The pump never waits for a reader, with one exception: the one that holds the job's stdin is its terminal, and a job
//! waits for its terminal as for a pipe, until that is gone.

use std::{
    io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use crate::{
    domain::{
        catch_up::{Line, Repeats},
        lines::Lines,
        mux::Out,
    },
    logs::{Record, Writer},
};

/// Pieces an attached reader may be behind; the engine's are of 32 KiB at most.
const BACKLOG: usize = 256;
/// Longest time a job waits until the one that holds its stdin takes one piece more. That one is there: who attached it
/// lets go of it when its connection is lost.
const HOLDER_TIMEOUT: Duration = Duration::from_secs(3600);
/// Most bytes kept for the one that will hold a job's stdin.
const KEPT: usize = 1 << 20;
/// What comes so long after an attachment was made is new, even if it says the same as a line before.
const SEAM: Duration = Duration::from_secs(1);
/// Pieces of stdin under way.
const STDIN: usize = 16;

/// What an attached reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// Output.
    Data(Out, Bytes),
    /// The job ended with this status; nothing follows.
    Exit(i32),
}

/// How far a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Number of its last line.
    pub(crate) last: u64,
    /// Nothing follows.
    pub(crate) complete: bool,
}

/// One job's output.
#[derive(Debug)]
pub(crate) struct Output {
    inner: Mutex<Inner>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Inner {
    writer: Option<Writer>,
    lines: [Lines; 2],
    repeats: Repeats,
    repeats_until: Timestamp,
    readers: Vec<Reader>,
    /// Whether the reader that holds stdin is behind and waited for, and when that was last so.
    awaited: (bool, Option<Instant>),
    /// All output so far, of a job whose stdin nobody holds yet.
    kept: Option<(Vec<(Out, Bytes)>, usize)>,
    stdin: Option<mpsc::Sender<Bytes>>,
    for_container: Option<mpsc::Receiver<Bytes>>,
    exit: Option<i32>,
}

#[derive(Debug)]
struct Reader {
    sender: mpsc::Sender<Told>,
    /// One that is slower than the job has no other place for it when the job ends.
    place_of_exit: Option<mpsc::OwnedPermit<Told>>,
    holds_stdin: bool,
}

impl Reader {
    fn tell_end(self, exit: i32) {
        if let Some(place) = self.place_of_exit {
            place.send(Told::Exit(exit));
        }
    }
}

/// An attached reader's end.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// What was before the first of `told` and is not in the log: the job's whole output for the first that holds its
    /// stdin, else the unfinished lines.
    pub(crate) before: Vec<(Out, Bytes)>,
    /// Whether `before` holds everything, so that the log has nothing to add.
    pub(crate) whole: bool,
    /// Last line of the log that is before the first of `told`.
    pub(crate) last_line: u64,
    /// What comes. It ends without [`Told::Exit`] when the reader was too slow.
    pub(crate) told: mpsc::Receiver<Told>,
    /// The job's stdin, if this one asked for it and nobody holds it. Dropping it ends stdin.
    pub(crate) stdin: Option<mpsc::Sender<Bytes>>,
}

impl Output {
    /// The output of a job that has not ended.
    pub(crate) fn open(folder: &Path, stdin: bool) -> io::Result<Self> {
        let writer = Writer::open(folder)?;
        let (sender, receiver) = mpsc::channel(STDIN);
        let progress = Progress { last: writer.last(), complete: false };
        Ok(Self {
            inner: Mutex::new(Inner {
                writer: Some(writer),
                kept: stdin.then(Default::default),
                stdin: stdin.then_some(sender),
                for_container: stdin.then_some(receiver),
                ..Inner::default()
            }),
            progress: watch::Sender::new(progress),
        })
    }

    /// The output of a job that has.
    pub(crate) fn ended(exit: Option<i32>) -> Self {
        let inner = Inner { exit: Some(exit.unwrap_or(-1)), ..Inner::default() };
        let progress = Progress { last: 0, complete: true };
        Self { inner: Mutex::new(inner), progress: watch::Sender::new(progress) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the log is.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Where the container's stdin comes from; given once.
    pub(crate) fn stdin_of_container(&self) -> Option<mpsc::Receiver<Bytes>> {
        self.lock().for_container.take()
    }

    /// Attaches a reader.
    pub(crate) fn subscribe(&self, wants_stdin: bool) -> Subscription {
        let (sender, told) = mpsc::channel(BACKLOG + 1);
        let mut inner = self.lock();
        let stdin = if wants_stdin { inner.stdin.take() } else { None };
        let kept = if stdin.is_some() { inner.kept.take() } else { None };
        let whole = kept.is_some();
        let before = match kept {
            Some((pieces, _)) => pieces,
            None => inner.unfinished(),
        };
        let last_line = inner.writer.as_ref().map_or(u64::MAX, Writer::last);
        match inner.exit {
            Some(exit) => {
                let _ = sender.try_send(Told::Exit(exit));
            }
            None => {
                let place_of_exit = sender.clone().try_reserve_owned().ok();
                let holds_stdin = stdin.is_some();
                inner.readers.push(Reader { sender, place_of_exit, holds_stdin });
            }
        }
        Subscription { before, whole, last_line, told, stdin }
    }

    /// Takes a piece of output: to the log, and to whoever is attached.
    pub(crate) async fn push(&self, pieces: Vec<(Out, Bytes)>) -> io::Result<()> {
        let (logged, waiting) = {
            let mut inner = self.lock();
            let logged = inner.log(&pieces);
            let last = inner.writer.as_ref().map_or(0, Writer::last);
            self.progress
                .send_if_modified(|progress| std::mem::replace(&mut progress.last, last) != last);
            (logged, inner.hand_out(&pieces))
        };
        self.deliver(waiting).await;
        logged
    }

    /// Says something to the job's owner: in its log, and to the attached readers that are not behind. It waits for no
    /// reader: what enforces limits says something here.
    pub(crate) fn say(&self, text: &str) -> io::Result<()> {
        let text = format!("flynn: {text}");
        let piece = (Out::Stderr, Bytes::from(format!("{text}\r\n")));
        let mut inner = self.lock();
        let writer = inner.writer.as_mut();
        let logged = writer.map_or(Ok(()), |writer| writer.append_own(Timestamp::now(), text));
        let last = inner.writer.as_ref().map_or(0, Writer::last);
        self.progress.send_modify(|progress| progress.last = progress.last.max(last));
        let behind = inner.hand_out(&[piece]);
        inner.readers.extend(behind.into_iter().map(|(reader, _)| reader));
        logged
    }

    /// Whether the job's output waits for the reader that holds its stdin, or did in this last time.
    pub(crate) fn awaited_reader_within(&self, time: Duration) -> bool {
        let (awaited, last) = self.lock().awaited;
        awaited || last.is_some_and(|last| last.elapsed() < time)
    }

    /// Waits for those that a job waits for.
    async fn deliver(&self, waiting: Vec<(Reader, Vec<Told>)>) {
        for (reader, rest) in waiting {
            self.lock().awaited.0 = true;
            let taken = send_all(&reader.sender, rest).await;
            let mut inner = self.lock();
            inner.awaited = (false, Some(Instant::now()));
            match inner.exit {
                _ if !taken => {}
                None => inner.readers.push(reader),
                // The job did not wait for it to the end.
                Some(exit) => reader.tell_end(exit),
            }
        }
    }

    /// Appends lines of the engine's own log, which nobody attached has seen. Those from `seam` on may come again.
    pub(crate) fn catch_up(&self, lines: Vec<Line>, seam: Timestamp) -> io::Result<()> {
        let mut inner = self.lock();
        inner.lines = Default::default();
        inner.repeats = Repeats::default();
        // Counted from now: attaching and reading the engine's log may have taken long.
        inner.repeats_until = Timestamp::now() + SEAM;
        for line in lines.iter().filter(|line| line.at >= seam) {
            inner.repeats.expect(line.out, &line.text);
        }
        drop(inner);
        self.append(lines.into_iter().map(|line| (line.out, line.at, line.text)).collect())
    }

    fn append(&self, lines: Vec<(Out, Timestamp, String)>) -> io::Result<()> {
        let mut inner = self.lock();
        let Some(writer) = &mut inner.writer else { return Ok(()) };
        writer.append(lines)?;
        let last = writer.last();
        self.progress.send_modify(|progress| progress.last = last);
        Ok(())
    }

    /// The last lines of the log, and when the last was read.
    pub(crate) fn tail(&self, count: u64) -> io::Result<(Vec<Record>, Option<Timestamp>)> {
        let inner = self.lock();
        match &inner.writer {
            Some(writer) => Ok((writer.tail(count)?, writer.last_at())),
            None => Ok((Vec::new(), None)),
        }
    }

    /// A process ended: unfinished lines are finished.
    pub(crate) fn finish_lines(&self) -> io::Result<()> {
        let mut inner = self.lock();
        let now = Timestamp::now();
        let mut rest = Vec::new();
        for (out, lines) in [Out::Stdout, Out::Stderr].into_iter().zip(&mut inner.lines) {
            lines.finish(|line| rest.push((out, now, line)));
        }
        drop(inner);
        if rest.is_empty() { Ok(()) } else { self.append(rest) }
    }

    /// The job ended: all readers are told, and nothing is written any more.
    pub(crate) fn end(&self, exit: i32) {
        let mut inner = self.lock();
        inner.exit = Some(exit);
        inner.stdin = None;
        inner.for_container = None;
        inner.readers.drain(..).for_each(|reader| reader.tell_end(exit));
        inner.writer = None;
        self.progress.send_modify(|progress| progress.complete = true);
    }
}

/// Sends a reader everything, however slowly it takes it; whether it did.
async fn send_all(reader: &mpsc::Sender<Told>, rest: Vec<Told>) -> bool {
    for piece in rest {
        if !matches!(timeout(HOLDER_TIMEOUT, reader.send(piece)).await, Ok(Ok(()))) {
            return false;
        }
    }
    true
}

impl Inner {
    fn unfinished(&self) -> Vec<(Out, Bytes)> {
        let outs = [Out::Stdout, Out::Stderr].into_iter().zip(&self.lines);
        outs.filter(|(_, lines)| !lines.unfinished().is_empty())
            .map(|(out, lines)| (out, Bytes::copy_from_slice(lines.unfinished())))
            .collect()
    }

    fn log(&mut self, pieces: &[(Out, Bytes)]) -> io::Result<()> {
        let now = Timestamp::now();
        let mut complete = Vec::new();
        for (out, piece) in pieces {
            let lines = &mut self.lines[usize::from(*out == Out::Stderr)];
            lines.push(piece, |line| {
                if now > self.repeats_until || !self.repeats.is_repeat(*out, &line) {
                    complete.push((*out, now, line));
                }
            });
        }
        match &mut self.writer {
            Some(writer) if !complete.is_empty() => writer.append(complete),
            _ => Ok(()),
        }
    }

    /// Gives every reader what fits. Answers the one that holds stdin, with what did not fit; other slow ones are cut.
    fn hand_out(&mut self, pieces: &[(Out, Bytes)]) -> Vec<(Reader, Vec<Told>)> {
        if let Some((kept, size)) = &mut self.kept {
            kept.extend(pieces.iter().cloned());
            *size += pieces.iter().map(|(_, piece)| piece.len()).sum::<usize>();
            while *size > KEPT {
                *size -= kept.remove(0).1.len();
            }
        }
        let mut waiting = Vec::new();
        for reader in std::mem::take(&mut self.readers) {
            let told = |(out, piece): &(Out, Bytes)| Told::Data(*out, piece.clone());
            let mut rest = pieces.iter().map(told).peekable();
            let mut cut = false;
            while let Some(piece) = rest.peek() {
                match reader.sender.try_send(piece.clone()) {
                    Ok(()) => drop(rest.next()),
                    Err(mpsc::error::TrySendError::Full(_)) if reader.holds_stdin => break,
                    Err(_) => {
                        cut = true;
                        break;
                    }
                }
            }
            let rest: Vec<Told> = rest.collect();
            match (cut, rest.is_empty()) {
                (true, _) => {}
                (false, true) => self.readers.push(reader),
                (false, false) => waiting.push((reader, rest)),
            }
        }
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str) -> Vec<(Out, Bytes)> {
        vec![(Out::Stdout, Bytes::copy_from_slice(text.as_bytes()))]
    }

    fn told(text: &str) -> Told {
        Told::Data(Out::Stdout, Bytes::copy_from_slice(text.as_bytes()))
    }

    #[tokio::test]
    async fn log_and_subscription_together_hold_everything_once() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::open(dir.path(), false).unwrap();
        output.push(piece("one\ntw")).await.unwrap();
        let mut subscription = output.subscribe(false);
        assert_eq!(subscription.last_line, 1);
        assert_eq!(subscription.before, piece("tw"));
        output.push(piece("o\n")).await.unwrap();
        output.end(7);
        assert_eq!(subscription.told.recv().await, Some(told("o\n")));
        assert_eq!(subscription.told.recv().await, Some(Told::Exit(7)));
        assert_eq!(output.subscribe(false).told.recv().await, Some(Told::Exit(7)));
        assert!(output.progress().borrow().complete);
    }

    #[tokio::test]
    async fn what_the_host_says_is_in_the_log_and_told_and_is_not_the_jobs_own() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::open(dir.path(), false).unwrap();
        let mut subscription = output.subscribe(false);
        output.push(piece("one\n")).await.unwrap();
        output.say("too much").unwrap();
        let (records, _) = output.tail(9).unwrap();
        let logged: Vec<_> = records.iter().map(|r| (r.text.as_str(), r.by_host)).collect();
        assert_eq!(logged, [("one", false), ("flynn: too much", true)]);
        assert_eq!(output.progress().borrow().last, 2);
        subscription.told.recv().await.unwrap();
        let said = Told::Data(Out::Stderr, Bytes::from_static(b"flynn: too much\r\n"));
        assert_eq!(subscription.told.recv().await, Some(said));
    }

    #[tokio::test]
    async fn the_first_that_holds_stdin_gets_everything_from_the_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::open(dir.path(), true).unwrap();
        output.push(piece("$ ")).await.unwrap();
        let first = output.subscribe(true);
        assert!(first.stdin.is_some() && first.whole);
        assert_eq!(first.before, piece("$ "));
        let second = output.subscribe(true);
        assert!(second.stdin.is_none());
    }

    #[tokio::test]
    async fn a_reader_that_has_read_nothing_yet_is_told_of_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::open(dir.path(), true).unwrap();
        let (mut slow, owner) = (output.subscribe(false), output.subscribe(true));
        drop(owner);
        for _ in 0..BACKLOG {
            output.push(piece("x\n")).await.unwrap();
        }
        output.end(3);
        for _ in 0..BACKLOG {
            assert!(matches!(slow.told.recv().await, Some(Told::Data(..))));
        }
        assert_eq!(slow.told.recv().await, Some(Told::Exit(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_cut_off_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::open(dir.path(), true).unwrap();
        let (mut slow, owner) = (output.subscribe(false), output.subscribe(true));
        drop(owner);
        for _ in 0..BACKLOG + 9 {
            output.push(piece("x\n")).await.unwrap();
        }
        assert!(output.lock().readers.is_empty());
        let mut got = 0;
        while slow.told.recv().await.is_some() {
            got += 1;
        }
        assert_eq!(got, BACKLOG);
        let (records, _) = output.tail(9999).unwrap();
        assert_eq!(records.len(), BACKLOG + 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_waits_for_the_one_that_holds_its_stdin_and_that_gets_all() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::open(dir.path(), true).unwrap();
        let mut owner = output.subscribe(true);
        let said = async {
            for _ in 0..BACKLOG + 9 {
                output.push(piece("x\n")).await.unwrap();
            }
            output.end(3);
        };
        let read = async {
            let pause = timeout(Duration::from_secs(1800), std::future::pending::<()>());
            assert!(pause.await.is_err() && output.awaited_reader_within(Duration::ZERO));
            // The limits of the job hold meanwhile.
            output.say("too much").unwrap();
            for _ in 0..BACKLOG + 9 {
                assert!(matches!(owner.told.recv().await, Some(Told::Data(..))));
            }
            assert_eq!(owner.told.recv().await, Some(Told::Exit(3)));
        };
        tokio::join!(said, read);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_waits_neither_for_a_holder_that_is_gone_nor_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        for goes in [true, false] {
            let output = Output::open(dir.path(), true).unwrap();
            let owner = output.subscribe(true);
            let begun = Instant::now();
            let said = async {
                for _ in 0..BACKLOG + 9 {
                    output.push(piece("x\n")).await.unwrap();
                }
            };
            let gone = async {
                let minute = timeout(Duration::from_secs(60), std::future::pending::<()>());
                assert!(minute.await.is_err());
                if goes { drop(owner) } else { std::mem::forget(owner) }
            };
            tokio::join!(said, gone);
            let waited = if goes { Duration::from_secs(60) } else { HOLDER_TIMEOUT };
            assert_eq!(begun.elapsed(), waited);
            assert!(output.awaited_reader_within(Duration::from_secs(1)));
            assert!(!output.awaited_reader_within(Duration::ZERO));
        }
    }
}
