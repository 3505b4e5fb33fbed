//! Two connections joined into one, so that what a side said before it closed arrives.
//!
//! A kernel that closes a connection with unread bytes resets it, and a reset throws away what the other side has not read
//! yet. So a side is read, and what it says is thrown away, until it has closed too (RFC 9112, 9.6).

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, sink, split},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Longest time a side may take to close after it was told of the end.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes copied at once, in each direction.
const PIECE_SIZE: usize = 8 << 10;

/// Why one direction ended before its source did.
enum CopyError {
    /// The source is lost, and with it the way back.
    Source,
    /// The sink takes no more; it may still have something to say.
    Sink,
}

/// Copies both ways until both sides have ended. A side that takes no more is listened to until its end all the same; the
/// other is told then, and has [`LINGER_TIMEOUT`] to close: the future in the answer waits for that. By then no data is
/// being relayed.
pub async fn relay<A, B>(one: A, other: B) -> impl Future<Output = ()> + use<A, B>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (from_one, to_one) = split(one);
    let (from_other, to_other) = split(other);
    let (one_ended, other_ended, lost) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let (one, other) = tokio::join!(
        pass(from_one, to_other, &one_ended, &other_ended, &lost),
        pass(from_other, to_one, &other_ended, &one_ended, &lost),
    );
    async move {
        tokio::join!(linger_if_open(one), linger_if_open(other));
    }
}

async fn linger_if_open(from: Option<impl AsyncRead + Unpin>) {
    if let Some(mut from) = from {
        linger(&mut from).await;
    }
}

/// Reads until the end, or for [`LINGER_TIMEOUT`], and throws away what comes.
pub async fn linger(from: &mut (impl AsyncRead + Unpin)) {
    let _ = timeout(LINGER_TIMEOUT, tokio::io::copy(from, &mut sink())).await;
}

/// One direction; its source, where that has not ended. `ended` is for it to say that its source has ended, `sink_ended`
/// says it of its sink.
async fn pass<R: AsyncRead + Unpin>(
    mut from: R,
    mut to: impl AsyncWrite + Unpin,
    ended: &CancellationToken,
    sink_ended: &CancellationToken,
    lost: &CancellationToken,
) -> Option<R> {
    match lost.run_until_cancelled(copy(&mut from, &mut to)).await {
        Some(Err(CopyError::Sink)) => {
            // Until the sink, too, has said all; whatever that was reaches the source.
            let mut nobody = sink();
            let unheard = tokio::io::copy(&mut from, &mut nobody);
            let still_open = sink_ended.run_until_cancelled(unheard).await.is_none();
            still_open.then_some(from)
        }
        Some(copied) => {
            if copied.is_err() {
                lost.cancel();
            }
            // One that does not read might hold this up.
            let _ = timeout(LINGER_TIMEOUT, to.shutdown()).await;
            ended.cancel();
            None
        }
        None => Some(from),
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<(), CopyError> {
    let mut piece = vec![0; PIECE_SIZE];
    loop {
        let read = from.read(&mut piece).await.map_err(|_| CopyError::Source)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&piece[..read]).await.map_err(|_| CopyError::Sink)?;
        to.flush().await.map_err(|_| CopyError::Sink)?;
    }
}

#[cfg(test)]
mod tests {
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
}
