//! Relaying between the client of an attached job and its host.
//!
//! The end of the client has to be noticed whatever the job does, also one that does not read its stdin, so that the host
//! takes nothing. Up to 1 MiB the client is read on meanwhile, and its end is seen at once. With more
//! than that pending it is not read, and what it said before it closed hides that it did; what can be seen then is that the
//! kernel has given its connection up. A client that was reset is told from others at the next [`PROBE`]; of one that
//! closed, or whose host is gone, the kernels find that out by their own probes some minutes later.
//!
//! A client that takes its output slowly gets all of it, also after the job has ended: [`linger`] waits for that.

use std::{io, pin::pin, time::Duration};

use attach::{Frame, FrameCodec, PendingReceiver, PendingSender, pending};
use daemon::{
    relay::{discard, linger, until_lost},
    upgraded::Client,
};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::codec::{FramedRead, FramedWrite};
use tracing::debug;

use crate::one_off::Attached;

/// Signals and sizes of windows that were read of a client and that its host has not taken yet.
const PENDING_SIGNALS_MAX: usize = 64;
/// What a client said before it went may take this long to get to the host: a signal, mostly.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two looks whether the connection of the client is still one.
const PROBE: Duration = Duration::from_secs(5);
/// Bytes relayed from the host at once.
const PIECE_LEN: usize = 8 << 10;

/// What is on its way to the host.
struct Pending {
    stdin: PendingReceiver<Frame>,
    /// Signals and sizes of windows do not wait for stdin.
    signals: mpsc::Receiver<Frame>,
}

/// Where what a client says becomes pending.
struct Reader {
    stdin: PendingSender<Frame>,
    signals: mpsc::Sender<Frame>,
}

/// Relays until the job has ended or the client is gone; in the latter case the job is stopped.
pub(crate) async fn relay(client: TokioIo<Upgraded>, mut attached: Attached) {
    let Some(host) = attached.connection.take() else { return };
    let client = match Client::new(client.into_inner()) {
        Ok(client) => client,
        Err(err) => return debug!(error = %err, "a client of an attached job is lost"),
    };
    let line = client.line();
    let (mut from_client, mut to_client) = split(client);
    let (from_host, to_host) = split(host);
    let down = async {
        // Ends when the host has said all, or when the client cannot be told any more.
        let copied = relay_down(from_host, &mut to_client).await;
        let _ = to_client.shutdown().await;
        copied.is_ok()
    };
    attached.ended = tokio::select! {
        ended = down => ended,
        () = relay_up(&mut from_client, to_host) => false,
        () = until_lost(line) => false,
    };
    if attached.ended {
        // What it is still sending, or how slowly it reads, must not cost it the job's last words.
        linger(discard(&mut from_client), line).await;
    }
}

/// Relays what the host says, and notices a client whose connection was reset even if neither side says anything.
async fn relay_down(
    mut from_host: impl AsyncRead + Unpin,
    to_client: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_LEN];
    let mut probe = interval(PROBE);
    probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            read = from_host.read(&mut piece) => match read? {
                0 => return Ok(()),
                read => {
                    to_client.write_all(&piece[..read]).await?;
                    to_client.flush().await?;
                }
            },
            // Nothing is sent by it; what became of the connection is its answer.
            _ = probe.tick() => {
                let sent = to_client.write(&[]).await?;
                debug_assert_eq!(sent, 0, "there was nothing to send");
            }
        }
    }
}

/// Relays what the client says until it is gone. That it has no more for stdin is a frame; the end of the connection is
/// the end of the client, for one that was killed cannot be told from one that still listens.
async fn relay_up(from_client: impl AsyncRead + Unpin, to_host: impl AsyncWrite + Unpin) {
    let (stdin, pending_stdin) = pending();
    let (signals, pending_signals) = mpsc::channel(PENDING_SIGNALS_MAX);
    let pending = Pending { stdin: pending_stdin, signals: pending_signals };
    let mut forwarded = pin!(forward(pending, to_host));
    tokio::select! {
        () = read_on(from_client, Reader { stdin, signals }) => {}
        // Only when nothing more can come.
        () = &mut forwarded => return,
    }
    let _ = timeout(LAST_WORDS_TIMEOUT, forwarded).await;
}

/// Reads the client until its end, pausing while too much is pending.
async fn read_on(from_client: impl AsyncRead + Unpin, reader: Reader) {
    let mut frames = FramedRead::new(from_client, FrameCodec);
    while let Some(frame) = frames.next().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(err) => {
                debug!(error = %err, "a client of an attached job is lost");
                return;
            }
        };
        let len = match &frame {
            Frame::Data { bytes, .. } => bytes.len(),
            _ => {
                if reader.signals.send(frame).await.is_err() {
                    return;
                }
                continue;
            }
        };
        if !reader.stdin.send(frame, len).await {
            return;
        }
    }
}

/// Says to the host what is pending, until nothing more can come.
async fn forward(mut pending: Pending, to_host: impl AsyncWrite + Unpin) {
    let mut host = FramedWrite::new(to_host, FrameCodec);
    let mut host_listens = true;
    loop {
        let (frame, _place) = tokio::select! {
            biased;
            Some(frame) = pending.signals.recv() => (frame, None),
            Some((frame, place)) = pending.stdin.recv() => (frame, Some(place)),
            else => return,
        };
        // A host that is done takes no more; its last words come the other way.
        host_listens = host_listens && host.send(frame).await.is_ok();
    }
}

#[cfg(test)]
mod tests {
    use attach::Stream;
    use futures_util::FutureExt;
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const FRAME: usize = 32 << 10;

    fn stdin(len: usize) -> Frame {
        Frame::Data { stream: Stream::Stdin, bytes: vec![b'x'; len].into() }
    }

    /// A client that says this many frames to a host that takes nothing, as far as it is read.
    async fn flood(client: &mut DuplexStream, frames: usize) -> usize {
        let mut client = FramedWrite::new(client, FrameCodec);
        for said in 0..frames {
            if timeout(Duration::from_secs(5), client.send(stdin(FRAME))).await.is_err() {
                return said;
            }
        }
        frames
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_is_noticed_while_the_host_takes_nothing() {
        let (mut client, of_client) = duplex(FRAME);
        let (to_host, _deaf) = duplex(10);
        let mut relayed = pin!(relay_up(of_client, to_host));
        let said = tokio::select! {
            () = &mut relayed => panic!("the client is there"),
            said = flood(&mut client, 16) => said,
        };
        assert_eq!(said, 16, "half of what may be pending is read");
        assert!(relayed.as_mut().now_or_never().is_none());
        drop(client);
        timeout(Duration::from_secs(2), relayed).await.expect("it is noticed");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_pending_is_bounded_and_gets_to_the_host_in_order() {
        let (mut client, of_client) = duplex(FRAME);
        let (to_host, host) = duplex(10);
        let mut relayed = pin!(relay_up(of_client, to_host));
        let said = tokio::select! {
            () = &mut relayed => panic!("the client is there"),
            said = flood(&mut client, 1000) => said,
        };
        assert!((32..40).contains(&said), "1 MiB, and what is in the connections: {said}");
        let mut host = FramedRead::new(host, FrameCodec);
        let heard = async {
            for _ in 0..said {
                assert_eq!(host.next().await.unwrap().unwrap(), stdin(FRAME));
            }
        };
        tokio::select! {
            () = relayed => panic!("the client is there"),
            () = heard => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_does_not_wait_for_stdin_that_is_pending() {
        let (mut client, of_client) = duplex(FRAME);
        let (to_host, host) = duplex(10);
        let mut relayed = pin!(relay_up(of_client, to_host));
        let said = async {
            assert_eq!(flood(&mut client, 16).await, 16);
            FramedWrite::new(&mut client, FrameCodec).send(Frame::Signal(15)).await.unwrap();
            // Until it was read.
            assert!(timeout(LAST_WORDS_TIMEOUT, std::future::pending::<()>()).await.is_err());
        };
        tokio::select! {
            () = &mut relayed => panic!("the client is there"),
            () = said => {}
        }
        let mut host = FramedRead::new(host, FrameCodec);
        let heard = async {
            assert_eq!(host.next().await.unwrap().unwrap(), stdin(FRAME), "it was under way");
            assert_eq!(host.next().await.unwrap().unwrap(), Frame::Signal(15));
        };
        tokio::select! {
            () = relayed => panic!("the client is there"),
            () = heard => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_said_before_it_went_gets_to_the_host() {
        let (mut client, of_client) = duplex(FRAME);
        let (to_host, host) = duplex(FRAME);
        FramedWrite::new(&mut client, FrameCodec).send(Frame::Signal(15)).await.unwrap();
        drop(client);
        relay_up(of_client, to_host).await;
        let heard = FramedRead::new(host, FrameCodec).next().await;
        assert_eq!(heard.unwrap().unwrap(), Frame::Signal(15));
    }
}
