//! Being attached to a job: our stdin, stdout, stderr, signals and window size are its own, its exit status is ours.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use anyhow::{Context, bail};
use attach::{Frame, FrameCodec, Stream};
use bytes::Bytes;
use controller_client::Upgraded;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_util::{
    codec::{FramedRead, FramedWrite},
    sync::CancellationToken,
};

use crate::{
    output, stdio,
    terminal::{self, RawMode},
};

/// Frames of stdin that wait to be sent. A job that does not read its stdin makes us stop reading ours, not hoard it.
const UNSENT: usize = 16;
/// Bytes read from stdin at once.
const CHUNK: usize = 32 * 1024;
/// A job that ignores so many signals is left to itself.
const PATIENCE: usize = 3;
/// Time a job has to end after it was told that its terminal goes away.
const GRACE: Duration = Duration::from_secs(2);
/// What a connection that was closed and one that was reset have in common.
const LOST: &str = "the connection to the job was lost before it ended, so its exit status is not known; `flynn ps -a` \
                    shows what became of it";
/// What is said of a stdin that cannot be read.
const UNREAD: &str = "reading stdin; the job got only what came before, and is stopped";

/// What the job reads.
pub(crate) enum Input {
    /// The keys of our terminal, which the job has as its own.
    Terminal,
    /// Our stdin.
    Stdin,
    /// This, and nothing else.
    Given(Bytes),
}

/// Where the job's stdout goes.
#[derive(Clone, Copy)]
pub(crate) enum Stdout {
    /// To our own.
    Apart,
    /// To stderr, as its stderr.
    WithStderr,
}

/// Stays attached until the job ends, and answers with its exit status. The connection carries frames already.
pub(crate) async fn converse(
    connection: Upgraded,
    input: Input,
    stdout: Stdout,
) -> anyhow::Result<u32> {
    let tty = matches!(input, Input::Terminal);
    let (from_job, to_job) = tokio::io::split(connection);
    // Before the terminal is raw, for this may fail.
    let signals = Signals::new().context("listening for signals")?;
    let raw = if tty { Some(RawMode::enter().context("making the terminal raw")?) } else { None };
    let (stdin, unsent) = mpsc::channel(UNSENT);
    let (urgent, urgently) = urgent();
    // What becomes of the job is said by the other direction.
    let sending = async {
        send(urgently, unsent, to_job).await;
        std::future::pending::<()>().await;
    };
    let spoken = async {
        match say(input, stdin).await {
            Err(err) => anyhow::Error::new(err).context(UNREAD),
            Ok(()) => std::future::pending().await,
        }
    };
    let gone = CancellationToken::new();
    let status = tokio::select! {
        biased;
        // Whatever else happens at the same time.
        status = receive(from_job, stdout, &gone) => status,
        number = signals.forward(urgent, tty, &gone) => Ok(128 + number),
        err = spoken => Err(err),
        () = sending => unreachable!("sending waits for ever"),
    };
    drop(raw);
    status
}

/// What does not wait for stdin, which may be blocked. Putting it here never waits.
struct Urgent {
    signals: mpsc::Sender<u32>,
    size: watch::Sender<(u16, u16)>,
}

/// The other end of [`Urgent`].
struct Urgently {
    signals: mpsc::Receiver<u32>,
    /// The newest, with the rows first.
    size: watch::Receiver<(u16, u16)>,
}

fn urgent() -> (Urgent, Urgently) {
    // The command leaves at the last of these, so that no more can come.
    let (signals, to_send) = mpsc::channel(PATIENCE);
    let (size, newest) = watch::channel((0, 0));
    (Urgent { signals, size }, Urgently { signals: to_send, size: newest })
}

/// Sends frames until nobody takes them.
async fn send(
    mut urgently: Urgently,
    mut unsent: mpsc::Receiver<Frame>,
    to_job: impl AsyncWrite + Unpin,
) {
    let mut frames = FramedWrite::new(to_job, FrameCodec);
    loop {
        let frame = tokio::select! {
            biased;
            Some(number) = urgently.signals.recv() => Frame::Signal(number),
            Ok(()) = urgently.size.changed() => {
                let (height, width) = *urgently.size.borrow_and_update();
                Frame::Resize { height, width }
            }
            Some(frame) = unsent.recv() => frame,
            else => return,
        };
        if frames.send(frame).await.is_err() {
            return;
        }
    }
}

/// Sends what the job shall read, and its end.
async fn say(input: Input, sender: mpsc::Sender<Frame>) -> io::Result<()> {
    match input {
        Input::Terminal | Input::Stdin => read_stdin(sender).await,
        Input::Given(bytes) => {
            let _ = sender.send(Frame::Data { stream: Stream::Stdin, bytes }).await;
            let _ = sender.send(Frame::eof(Stream::Stdin)).await;
            Ok(())
        }
    }
}

/// Sends our stdin, and its end. An error is not an end, for half of a file must not pass for all of it; but a terminal that
/// went away has ended.
async fn read_stdin(sender: mpsc::Sender<Frame>) -> io::Result<()> {
    // Asked now, for one that has gone away is none.
    let is_terminal = stdio::stdin().is_terminal();
    loop {
        let bytes = match blocking(read_chunk).await {
            Err(_) if is_terminal => Bytes::new(),
            read => read?,
        };
        let is_end = bytes.is_empty();
        let frame = Frame::Data { stream: Stream::Stdin, bytes };
        if sender.send(frame).await.is_err() || is_end {
            return Ok(());
        }
    }
}

/// Reads what there is of our stdin, nothing at its end. One that was closed has ended.
fn read_chunk() -> io::Result<Bytes> {
    let mut bytes = vec![0; CHUNK];
    let read = stdio::stdin().read(&mut bytes)?;
    bytes.truncate(read);
    Ok(bytes.into())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Writes what the job says, until it ends. If what is written to is a terminal that goes away, this is `gone`, and what the job
/// still says there is dropped.
async fn receive(
    from_job: impl AsyncRead + Unpin,
    to: Stdout,
    gone: &CancellationToken,
) -> anyhow::Result<u32> {
    // Asked now, for one that has gone away is none.
    let is_terminal = (stdio::stdout().is_terminal(), stdio::stderr().is_terminal());
    // The one may be gone, and the other a file.
    let (mut no_stdout, mut no_stderr) = (false, false);
    let mut frames = FramedRead::new(from_job, FrameCodec);
    while let Some(frame) = frames.next().await {
        match frame.context(LOST)? {
            Frame::Data { stream, bytes } => match (stream, to) {
                (Stream::Stderr, _) | (_, Stdout::WithStderr) if no_stderr => {}
                (Stream::Stderr, _) | (_, Stdout::WithStderr) => {
                    // Nobody there is no reason to stop.
                    let written = write(stdio::stderr(), bytes).await;
                    no_stderr = written.is_err() && is_terminal.1 && stdio::stderr().has_hung_up();
                }
                (_, Stdout::Apart) if no_stdout => {}
                (_, Stdout::Apart) => match write(stdio::stdout(), bytes).await {
                    Err(_) if is_terminal.0 && stdio::stdout().has_hung_up() => no_stdout = true,
                    written => written?,
                },
            },
            Frame::Exit(status) => return Ok(status),
            Frame::Signal(_) | Frame::Resize { .. } => {}
        }
        if no_stdout || no_stderr {
            gone.cancel();
        }
    }
    bail!(LOST)
}

async fn write(to: impl Write + Send + 'static, bytes: Bytes) -> io::Result<()> {
    let mut to = to;
    blocking(move || to.write_all(&bytes).and_then(|()| to.flush())).await
}

/// Waits until our terminal goes away: the kernel tells only those of whom it is the controlling one, and the others see it
/// when they write.
async fn hangup(signal: Option<&mut Signal>, gone: &CancellationToken) {
    match signal {
        Some(signal) => tokio::select! {
            _ = signal.recv() => {}
            () = gone.cancelled() => {}
        },
        None => std::future::pending().await,
    }
}

/// Whether this process was started with a signal ignored.
fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored(&status) & (1 << (signal.as_raw_value() - 1)) != 0
}

/// The signals that a process ignores, the first in the lowest bit, by its `/proc/<pid>/status`.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// The signals that are the job's business.
struct Signals {
    interrupt: Signal,
    quit: Signal,
    /// Absent under `nohup`, which has the command go on when its terminal is closed.
    hangup: Option<Signal>,
    terminate: Signal,
    window: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: match is_ignored(SignalKind::hangup()) {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
            terminate: signal(SignalKind::terminate())?,
            window: signal(SignalKind::window_change())?,
        })
    }

    /// Passes signals on. Returns the number of the one that makes us leave: the first on a terminal, for it can only
    /// mean that the terminal goes away (keys reach the job as bytes), and the first that says so elsewhere; else the third
    /// that the job ignores, or that has not reached it.
    async fn forward(mut self, urgent: Urgent, tty: bool, gone: &CancellationToken) -> u32 {
        let mut ignored = 0;
        // The window may have changed while the job was started.
        let mut resized = tty;
        loop {
            if std::mem::take(&mut resized)
                && let Some(size) = terminal::size()
            {
                urgent.size.send_replace(size);
            }
            let kind = tokio::select! {
                _ = self.window.recv() => {
                    resized = tty;
                    continue;
                }
                _ = self.interrupt.recv() => SignalKind::interrupt(),
                _ = self.quit.recv() => SignalKind::quit(),
                () = hangup(self.hangup.as_mut(), gone) => SignalKind::hangup(),
                _ = self.terminate.recv() => SignalKind::terminate(),
            };
            let number = kind.as_raw_value().unsigned_abs();
            let _ = urgent.signals.try_send(number);
            ignored += 1;
            if tty || kind == SignalKind::hangup() {
                tokio::time::sleep(GRACE).await;
                return number;
            }
            if ignored == PATIENCE {
                output::say("flynn: the job does not react to signals; leaving, which stops it");
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;
    use tokio::io::duplex;

    use super::*;

    #[test]
    fn nohup_is_seen() {
        let hangup = 1 << (SignalKind::hangup().as_raw_value() - 1);
        assert_eq!(ignored("SigBlk:\t0000000000000000\nSigIgn:\t0000000000000001\n"), hangup);
        assert_eq!(ignored("SigIgn:\tx\n") | ignored(""), 0);
    }

    #[tokio::test]
    async fn signals_and_the_newest_size_do_not_wait_for_stdin() {
        let (to_job, job) = duplex(10);
        let (stdin, unsent) = mpsc::channel(UNSENT);
        let (urgent, urgently) = urgent();
        let mut sent = pin!(send(urgently, unsent, to_job));
        let bytes = || Frame::Data { stream: Stream::Stdin, bytes: vec![b'x'; CHUNK].into() };
        stdin.try_send(bytes()).unwrap();
        assert!(sent.as_mut().now_or_never().is_none(), "the job takes nothing");
        while stdin.try_send(bytes()).is_ok() {}
        urgent.size.send_replace((24, 80));
        urgent.size.send_replace((30, 100));
        urgent.signals.try_send(15).unwrap();
        let mut frames = FramedRead::new(job, FrameCodec);
        let heard = async {
            let resize = Frame::Resize { height: 30, width: 100 };
            for heard in [bytes(), Frame::Signal(15), resize, bytes()] {
                assert_eq!(frames.next().await.unwrap().unwrap(), heard);
            }
        };
        tokio::select! {
            () = sent => panic!("the job is there"),
            () = heard => {}
        }
    }
}
