//! Two connections joined into one, so that what a side said before it closed arrives.
//!
//! A kernel that closes a connection with unread bytes resets it, and a reset throws away what the other side has not taken
//! yet. So a side is read, and what it says is thrown away, until it has closed too (RFC 9112, 9.6); and where its [`Line`]
//! is known a connection stays open until its other end has taken all, however slow it is.
//!
//! A side that breaks off has not ended: the other one is not told of an end then, so that it does not take a part for all.

use std::{
    io::{self, ErrorKind},
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, sink, split},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::line::Line;

/// Longest time a side may take to close after it has taken the last that it was told.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes copied at once, in each direction.
const PIECE_SIZE: usize = 8 << 10;

/// Why one direction ended before its source did.
enum CopyError {
    /// The source is lost, and with it the way back.
    Source,
    /// The sink takes no more; it may still have something to say.
    Sink(io::Error),
}

/// What one direction tells the other of the side that is the sink of one and the source of the other.
#[derive(Default)]
struct Side {
    /// Cancelled when it has said all, or is lost.
    ended: CancellationToken,
    /// It was reset, as who wrote to it was told: to who reads it next that looks like an end.
    is_reset: AtomicBool,
}

/// The source of a direction that has come to its end.
struct Passed<R> {
    from: R,
    /// Whether it may still say something.
    is_open: bool,
    /// Whether its sink was told of the end, or takes nothing.
    is_told: bool,
}

/// Which sides were told of no end, as the other one broke off. They have taken what it said before, and can tell that this
/// was not all if they are reset now: closed with a linger time of zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// The first.
    pub one: bool,
    /// The second.
    pub other: bool,
}

/// Copies both ways until both sides have ended. A side that takes no more is listened to until its end all the same; the
/// other is told then, and has 5 s to close: the future in the answer waits for that. By then no data is being relayed.
pub async fn relay<A, B>(one: A, other: B) -> impl Future<Output = ()> + use<A, B>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let lingering = relay_lines((one, None), (other, None)).await;
    async move {
        lingering.await;
    }
}

/// The same for sides of which the line may be known: the 5 s of such a side begin when it has taken all that it was told,
/// and if it vanishes with something on its way to it both sides are left. Sides that are lent can be reset afterwards.
pub async fn relay_lines<A, B>(
    (one, line_of_one): (A, Option<Line>),
    (other, line_of_other): (B, Option<Line>),
) -> impl Future<Output = Broken> + use<A, B>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (from_one, to_one) = split(one);
    let (from_other, to_other) = split(other);
    let (side_one, side_other) = (Side::default(), Side::default());
    let lost = CancellationToken::new();
    let to_one = (to_one, line_of_one);
    let to_other = (to_other, line_of_other);
    let watched = async {
        tokio::select! {
            () = until_lost(line_of_one) => {}
            () = until_lost(line_of_other) => {}
        }
        lost.cancel();
        std::future::pending::<()>().await;
    };
    let passed = async {
        tokio::join!(
            pass((from_one, &side_one), (to_other, &side_other), &lost),
            pass((from_other, &side_other), (to_one, &side_one), &lost),
        )
    };
    let (one, other) = tokio::select! {
        passed = passed => passed,
        () = watched => unreachable!("it watches for ever"),
    };
    async move {
        let broken = Broken { one: !other.is_told, other: !one.is_told };
        tokio::join!(part(one, line_of_one, broken.one), part(other, line_of_other, broken.other));
        broken
    }
}

/// Lets go of a side that was told of the end, or of none.
async fn part(side: Passed<impl AsyncRead + Unpin>, line: Option<Line>, is_broken: bool) {
    let Passed { mut from, is_open, .. } = side;
    match is_open {
        true if is_broken => _ = let_take(discard(&mut from), line).await,
        true => linger(discard(&mut from), line).await,
        false => until_taken(line).await,
    }
}

/// Reads until the end and throws away what comes.
pub async fn discard(from: &mut (impl AsyncRead + Unpin)) {
    let _ = tokio::io::copy(from, &mut sink()).await;
}

/// Waits until a side that was told of the end has taken all that it was told, and for some time until it has closed.
/// `reading` reads it, so that it can close in order, and ends when it does.
pub async fn linger(reading: impl Future<Output = ()>, line: Option<Line>) {
    let mut reading = pin!(reading);
    if !let_take(&mut reading, line).await {
        let _ = timeout(LINGER_TIMEOUT, reading).await;
    }
}

/// Waits until a side has taken all that it was told. `reading` reads it: one that says no more may still listen, and one
/// that is not heard may not listen. Returns whether `reading` has ended.
pub async fn let_take(reading: impl Future<Output = ()>, line: Option<Line>) -> bool {
    let mut taken = pin!(until_taken(line));
    tokio::select! {
        () = reading => {
            taken.await;
            true
        }
        () = &mut taken => false,
    }
}

/// Waits until a side is lost; for ever where that cannot be known.
pub async fn until_lost(line: Option<Line>) {
    match line {
        Some(line) => line.until_lost().await,
        None => std::future::pending().await,
    }
}

/// Waits until a side has taken all that it was told; not at all where that cannot be known.
pub async fn until_taken(line: Option<Line>) {
    if let Some(line) = line {
        line.until_taken().await;
    }
}

/// Tells a side of the end. With TLS that takes room on its way, which one that does not read does not make.
pub async fn tell_end(to: &mut (impl AsyncWrite + Unpin), line: Option<Line>) {
    let late = async {
        until_taken(line).await;
        sleep(LINGER_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        _ = to.shutdown() => {}
        () = late => {}
    }
}

/// One direction; its source.
async fn pass<R: AsyncRead + Unpin>(
    (mut from, source): (R, &Side),
    ((mut to, line), sink): ((impl AsyncWrite + Unpin, Option<Line>), &Side),
    lost: &CancellationToken,
) -> Passed<R> {
    let copied = match lost.run_until_cancelled(copy(&mut from, &mut to)).await {
        Some(Ok(())) if source.is_reset.load(Ordering::Relaxed) => Some(Err(CopyError::Source)),
        copied => copied,
    };
    let (is_open, is_told) = match copied {
        Some(Err(CopyError::Sink(err))) => {
            // One that had closed in order before it was written to breaks the pipe.
            sink.is_reset.fetch_or(err.kind() != ErrorKind::BrokenPipe, Ordering::Relaxed);
            // Until the sink, too, has said all; whatever that was reaches the source.
            (sink.ended.run_until_cancelled(discard(&mut from)).await.is_none(), true)
        }
        Some(Err(CopyError::Source)) => {
            lost.cancel();
            (false, false)
        }
        Some(Ok(())) => {
            tell_end(&mut to, line).await;
            (false, true)
        }
        None => (true, false),
    };
    // The other direction may be waiting for this one.
    source.ended.cancel();
    Passed { from, is_open, is_told }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<(), CopyError> {
    let mut piece = vec![0; PIECE_SIZE];
    loop {
        let read = match from.read(&mut piece).await {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            // With TLS, that it closed without saying so first. Most programs do, and what they speak has an end of its own.
            Err(err) if err.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(_) => return Err(CopyError::Source),
        };
        to.write_all(&piece[..read]).await.map_err(CopyError::Sink)?;
        to.flush().await.map_err(CopyError::Sink)?;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::{
        net::{TcpListener, TcpStream},
        task::JoinHandle,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap());
        let (connected, accepted) = tokio::join!(connected, listener.accept());
        (connected.unwrap(), accepted.unwrap().0)
    }

    #[expect(clippy::disallowed_methods, reason = "a test's relay ends with its runtime")]
    async fn joined() -> (TcpStream, TcpStream, JoinHandle<()>) {
        let ((client, of_client), (of_backend, backend)) = tokio::join!(pair(), pair());
        (client, backend, tokio::spawn(async { relay(of_client, of_backend).await.await }))
    }

    #[tokio::test]
    async fn each_side_may_end_alone() {
        let (mut client, mut backend, relayed) = joined().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = String::new();
        backend.read_to_string(&mut asked).await.unwrap();
        backend.write_all(b"answer").await.unwrap();
        drop(backend);
        let mut answered = String::new();
        client.read_to_string(&mut answered).await.unwrap();
        assert_eq!((asked.as_str(), answered.as_str()), ("question", "answer"));
        relayed.await.unwrap();
    }

    #[tokio::test]
    async fn last_words_arrive_although_the_other_side_is_still_sending() {
        for _ in 0..20 {
            let (client, mut backend, relayed) = joined().await;
            let (mut from_relay, mut to_relay) = client.into_split();
            let flood = async { while to_relay.write_all(&[b'x'; 32 << 10]).await.is_ok() {} };
            let words = async {
                backend.read_exact(&mut [0; 10]).await.unwrap();
                backend.write_all(b"GOODBYE").await.unwrap();
                drop(backend);
                let mut heard = Vec::new();
                let _ = from_relay.read_to_end(&mut heard).await;
                assert_eq!(heard, b"GOODBYE");
            };
            tokio::select! {
                () = words => {}
                () = async { flood.await; std::future::pending().await } => {}
            }
            drop((from_relay, to_relay));
            relayed.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_takes_the_last_words_slowly_gets_all() {
        const LEN: usize = 1 << 20;
        let ((mut client, of_client), (of_backend, mut backend)) = tokio::join!(pair(), pair());
        let line = Line::of(&of_client);
        let mut relayed =
            pin!(async { relay_lines((of_client, line), (of_backend, None)).await.await });
        let unheard = async {
            backend.write_all(&vec![b'x'; LEN]).await.unwrap();
            Line::of(&backend).unwrap().until_taken().await;
            drop(backend);
            // It goes on sending and reads nothing, for longer than it may take to close.
            for _ in 0..30 {
                client.write_all(b"more").await.unwrap();
                sleep(LINGER_TIMEOUT / 10).await;
            }
        };
        tokio::select! {
            _ = &mut relayed => panic!("it has not taken all"),
            () = unheard => {}
        }
        let mut heard = Vec::new();
        let (_, read) = tokio::join!(relayed, client.read_to_end(&mut heard));
        assert_eq!(read.unwrap(), LEN);
    }

    #[tokio::test]
    async fn a_side_that_is_lost_ends_the_other() {
        let (client, mut backend, relayed) = joined().await;
        client.set_zero_linger().unwrap();
        drop(client);
        let mut heard = Vec::new();
        backend.read_to_end(&mut heard).await.unwrap();
        drop(backend);
        relayed.await.unwrap();
    }

    #[tokio::test]
    async fn a_side_that_has_closed_is_not_waited_for() {
        // What is seen first, the close or that all was taken, is chance.
        for _ in 0..20 {
            let (mut ours, mut theirs) = pair().await;
            let line = Line::of(&ours);
            ours.write_all(b"GOODBYE").await.unwrap();
            ours.shutdown().await.unwrap();
            let lingering = async {
                linger(discard(&mut ours), line).await;
                linger(std::future::ready(()), line).await;
            };
            let closing = async {
                theirs.read_to_end(&mut Vec::new()).await.unwrap();
                drop(theirs);
            };
            let both = async { tokio::join!(lingering, closing) };
            timeout(LINGER_TIMEOUT / 2, both).await.expect("it has closed");
        }
    }

    #[tokio::test]
    async fn a_side_that_breaks_off_is_told_from_one_that_ends() {
        for breaks_off in [true, false] {
            let ((mut client, mut of_client), (mut of_backend, mut backend)) =
                tokio::join!(pair(), pair());
            let line = Line::of(&of_client);
            let relayed = async {
                let lingering = relay_lines((&mut of_client, line), (&mut of_backend, None)).await;
                lingering.await
            };
            let talk = async {
                backend.write_all(b"half").await.unwrap();
                client.read_exact(&mut [0; 4]).await.unwrap();
                if breaks_off {
                    backend.set_zero_linger().unwrap();
                    drop(backend);
                } else {
                    drop(backend);
                    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
                    client.shutdown().await.unwrap();
                }
            };
            let (broken, ()) = tokio::join!(relayed, talk);
            assert_eq!(broken.one, breaks_off);
            if breaks_off {
                let unread = client.read(&mut [0]).now_or_never();
                assert!(unread.is_none(), "it was told of no end");
            }
        }
    }

    #[tokio::test]
    async fn a_side_that_is_reset_while_it_is_written_to_has_not_ended() {
        let ((mut client, mut of_client), (mut of_backend, mut backend)) =
            tokio::join!(pair(), pair());
        let relayed =
            async { relay_lines((&mut of_client, None), (&mut of_backend, None)).await.await };
        let talk = async {
            backend.write_all(b"half").await.unwrap();
            client.read_exact(&mut [0; 4]).await.unwrap();
            // It reads nothing, until nothing more can be sent to it.
            let piece = vec![b'x'; 1 << 20];
            while timeout(Duration::from_millis(100), client.write_all(&piece)).await.is_ok() {}
            backend.set_zero_linger().unwrap();
            drop(backend);
        };
        let (broken, ()) = tokio::join!(relayed, talk);
        assert!(broken.one);
        assert!(client.read(&mut [0]).now_or_never().is_none(), "it was told of no end");
    }
}
