//! From the engine's streams to a job's [`Output`], over breaks of the connection and of this daemon.

use std::{io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::mpsc,
};
use tracing::warn;

use super::{deaths::Death, output::Output};
use crate::{
    backend::{engine::Engine, raw::Attached},
    domain::{
        catch_up::{self, Line},
        lines::Lines,
        mux::{Demux, Out},
    },
    logs::Record,
};

/// Bytes read at once.
const PIECE: usize = 32 << 10;
/// Lines of ours that are compared with the engine's.
const COMPARED: u64 = 2000;
/// Ends input where there is a terminal.
const END_OF_TRANSMISSION: &[u8] = b"\x04";
/// Pause before an attachment that broke is made again.
const PAUSE: Duration = Duration::from_millis(200);

/// One container's streams.
#[derive(Debug, Clone)]
pub(crate) struct Pump {
    pub(crate) engine: Engine,
    pub(crate) output: Arc<Output>,
    pub(crate) container: String,
    pub(crate) tty: bool,
    pub(crate) death: Death,
}

impl Pump {
    /// Works until the container's streams end. `attached` was made before the container's start, or is absent for one
    /// that runs already.
    pub(crate) async fn run(
        self,
        attached: Option<Attached>,
        stdin: Option<mpsc::Receiver<Bytes>>,
    ) {
        let mut connection = attached;
        let mut stdin = stdin;
        loop {
            let streams = match connection.take() {
                Some(streams) => Some(streams),
                None => self.attach_again().await,
            };
            let Some(streams) = streams else { break };
            let (read, write) = tokio::io::split(streams);
            let fed = feed(write, stdin.take(), self.tty);
            let pumped = self.pump(read);
            tokio::pin!(fed, pumped);
            let mut feeding = true;
            let ended = loop {
                tokio::select! {
                    ended = &mut pumped => break ended,
                    () = &mut fed, if feeding => feeding = false,
                }
            };
            if let Err(err) = ended {
                warn!(error = %err, container = %self.container, "a job's output broke off");
            }
            if !self.still_runs().await {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        if let Err(err) = self.output.finish_lines() {
            warn!(error = %err, "the end of a job's log could not be written");
        }
    }

    /// The engine's answer waits until it has cleaned up after a container that ended; its word that it did does not.
    async fn still_runs(&self) -> bool {
        let mut death = self.death.clone();
        tokio::select! {
            biased;
            _ = death.wait() => false,
            seen = self.engine.container(&self.container) => matches!(seen, Ok(Some(c)) if c.running),
        }
    }

    async fn pump(&self, mut read: ReadHalf<Attached>) -> io::Result<()> {
        let mut demux = Demux::default();
        let mut buffer = BytesMut::with_capacity(PIECE);
        loop {
            buffer.reserve(PIECE);
            if read.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            let chunk = buffer.split().freeze();
            let mut pieces = Vec::new();
            if self.tty {
                pieces.push((Out::Stdout, chunk));
            } else {
                demux.push(chunk, &mut pieces).map_err(io::Error::other)?;
            }
            if let Err(err) = self.output.push(pieces).await {
                // A full disk must not stop the job; the lines are lost.
                warn!(error = %err, "a job's log could not be written");
            }
        }
    }

    /// Attaches to a container that runs, and first takes from the engine's log what nobody read.
    async fn attach_again(&self) -> Option<Attached> {
        let seam = Timestamp::now();
        if !self.still_runs().await {
            // Attaching would wait for a start that never comes.
            self.catch_up(seam, Timestamp::now()).await;
            return None;
        }
        let streams = match self.engine.attach(&self.container, false).await {
            Ok(streams) => Some(streams),
            Err(err) => {
                warn!(error = &err as &dyn std::error::Error, "cannot attach to a job again");
                None
            }
        };
        // What comes from here on comes by the attachment too.
        let until = Timestamp::now();
        self.catch_up(seam, until).await;
        streams
    }

    /// Takes what is missing in our log from the engine's.
    async fn catch_up(&self, seam: Timestamp, until: Timestamp) {
        if let Err(err) = self.try_catch_up(seam, until).await {
            warn!(error = %err, container = %self.container, "a job's log may have a gap");
        }
    }

    async fn try_catch_up(&self, seam: Timestamp, until: Timestamp) -> anyhow::Result<()> {
        let output = self.output.clone();
        let (ours, last) = tokio::task::spawn_blocking(move || output.tail(COMPARED)).await??;
        let since = ours.first().map_or(0, |first| first.at.as_second());
        let since = last.map_or(0, |_| since);
        let log = self.engine.log(&self.container, since).await?;
        let mut theirs = parse(log, self.tty)?;
        theirs.retain(|line| line.at < until);
        let ours = ours.into_iter().filter(|record| !record.by_host);
        let ours: Vec<Line> = ours.map(line).collect();
        let missing = catch_up::missing(&ours, &theirs);
        Ok(self.output.catch_up(missing, seam)?)
    }
}

fn line(record: Record) -> Line {
    Line { out: record.out(), at: record.at, text: record.text }
}

/// The engine's log, as lines.
fn parse(log: Bytes, tty: bool) -> anyhow::Result<Vec<Line>> {
    let mut pieces = Vec::new();
    if tty {
        pieces.push((Out::Stdout, log));
    } else {
        Demux::default().push(log, &mut pieces)?;
    }
    let mut cut = [Lines::default(), Lines::default()];
    let mut lines = Vec::new();
    for (out, piece) in pieces {
        let cut = &mut cut[usize::from(out == Out::Stderr)];
        cut.push(&piece, |line| lines.extend(catch_up::parse(out, &line)));
    }
    // In the order of the streams together.
    lines.sort_by_key(|line| line.at);
    Ok(lines)
}

/// Writes what is given to the job's stdin, and ends it when the giver is gone.
async fn feed(mut write: WriteHalf<Attached>, stdin: Option<mpsc::Receiver<Bytes>>, tty: bool) {
    let Some(mut stdin) = stdin else { return std::future::pending().await };
    while let Some(bytes) = stdin.recv().await {
        if write.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // Closing a terminal's input would lose its output.
    let _ = if tty { write.write_all(END_OF_TRANSMISSION).await } else { write.shutdown().await };
}
