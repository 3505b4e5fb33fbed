//! Clients' connections in the hands of hyper, which lets go of them when it is done: too early for what is on its way.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use daemon::{
    line::Line,
    relay::{discard, let_take, linger, tell_end},
};
use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
};
use tokio_rustls::server::TlsStream;

use super::last::Written;

/// Most that is read at once, in bytes. hyper makes its buffer as large as what its reads bring, up to 64 KiB, and keeps it
/// while a connection is idle. It takes a read of 16 KiB for a reason to make the next one larger.
const READ_MAX: usize = (16 << 10) - 1;

/// A stream that goes back to its owner when this is dropped.
pub(super) struct Lent<S> {
    /// There until then.
    stream: Option<S>,
    owner: Option<oneshot::Sender<Returned<S>>>,
    has_ended: bool,
    written: Arc<Written>,
}

/// A stream whose other end can be told of an error instead of an end.
pub(super) trait Resettable {
    /// Sees to it that it is told of an error when this is closed, by whomever: the kernel does it for a router that is
    /// killed.
    fn reset_when_closed(&self);

    /// Sees to it that it is told of an end.
    fn end_when_closed(&self);
}

impl Resettable for TcpStream {
    fn reset_when_closed(&self) {
        // It may be gone.
        let _ = self.set_zero_linger();
    }

    fn end_when_closed(&self) {
        let _ = set_socket_linger(self, None);
    }
}

impl Resettable for TlsStream<TcpStream> {
    fn reset_when_closed(&self) {
        self.get_ref().0.reset_when_closed();
    }

    fn end_when_closed(&self) {
        self.get_ref().0.end_when_closed();
    }
}

/// Where a stream comes back to.
pub(super) struct Owner<S>(oneshot::Receiver<Returned<S>>);

struct Returned<S> {
    stream: S,
    /// Whether the client has closed: there is nothing more to read.
    has_ended: bool,
}

/// Lends a stream. An answer may be one that its end tells the length of: until its owner parts with it, its client is told
/// of no end.
pub(super) fn lend<S: Resettable>(stream: S) -> (Lent<S>, Owner<S>) {
    stream.reset_when_closed();
    let (owner, returned) = oneshot::channel();
    let (stream, owner) = (Some(stream), Some(owner));
    (Lent { stream, owner, has_ended: false, written: Arc::default() }, Owner(returned))
}

impl<S> Owner<S>
where
    S: AsyncRead + AsyncWrite + Resettable + Unpin,
{
    /// Lets go of a stream that came back, when the client has taken what it was told. It is told of an end only where
    /// that `is_orderly`. One that was switched to another protocol has not come back.
    pub(super) async fn part(mut self, line: Option<Line>, is_orderly: bool) {
        let Ok(Returned { mut stream, has_ended }) = self.0.try_recv() else { return };
        if !is_orderly {
            let_take(discard(&mut stream), line).await;
            return;
        }
        stream.end_when_closed();
        if !has_ended {
            tell_end(&mut stream, line).await;
            linger(discard(&mut stream), line).await;
        }
    }
}

impl<S> Lent<S> {
    /// The stream.
    pub(super) fn get(&self) -> Option<&S> {
        self.stream.as_ref()
    }

    /// How far it is with what it was given.
    pub(super) fn written(&self) -> &Arc<Written> {
        &self.written
    }

    fn stream(&mut self) -> io::Result<&mut S> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: Unpin> Lent<S> {
    fn pinned(self: Pin<&mut Self>) -> io::Result<Pin<&mut S>> {
        self.get_mut().stream().map(Pin::new)
    }
}

impl<S> fmt::Debug for Lent<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent").field("has_ended", &self.has_ended).finish_non_exhaustive()
    }
}

impl<S> Drop for Lent<S> {
    fn drop(&mut self) {
        if let (Some(stream), Some(owner)) = (self.stream.take(), self.owner.take()) {
            // An owner that did not wait lets go of it at once.
            let _ = owner.send(Returned { stream, has_ended: self.has_ended });
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lent<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let stream = self.as_mut().pinned()?;
        let read = if buf.remaining() > READ_MAX {
            let mut piece = ReadBuf::new(buf.initialize_unfilled_to(READ_MAX));
            let read = ready!(stream.poll_read(cx, &mut piece));
            let len = piece.filled().len();
            buf.advance(len);
            read
        } else {
            ready!(stream.poll_read(cx, buf))
        };
        if read.is_err() || buf.filled().len() == before && buf.remaining() > 0 {
            self.has_ended = true;
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.begin();
        self.pinned()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.written.begin();
        self.pinned()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.get().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(self.as_mut().pinned()?.poll_flush(cx));
        self.written.finish();
        Poll::Ready(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// The two ends of a connection.
    async fn ends() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    /// What a client is told that gets half an answer, and closes its own side where it `half_closes`.
    async fn told(half_closes: bool, is_orderly: Option<bool>) -> Option<ErrorKind> {
        let (mut client, stream) = ends().await;
        let (mut lent, owner) = lend(stream);
        lent.write_all(b"half").await.unwrap();
        client.read_exact(&mut [0; 4]).await.unwrap();
        if half_closes {
            client.shutdown().await.unwrap();
            assert_eq!(lent.read(&mut [0]).await.unwrap(), 0);
        }
        drop(lent);
        let parted = async {
            match is_orderly {
                Some(is_orderly) => owner.part(None, is_orderly).await,
                // The router stops.
                None => drop(owner),
            }
        };
        let reading = async {
            let end = client.read(&mut [0]).await;
            drop(client);
            end
        };
        let (end, ()) = tokio::join!(reading, parted);
        end.err().map(|err| err.kind())
    }

    #[tokio::test]
    async fn no_read_brings_so_much_that_a_large_buffer_is_kept() {
        let (mut client, stream) = ends().await;
        let (mut lent, _owner) = lend(stream);
        let mut come = 0;
        let sending = async { client.write_all(&[b'x'; 100_000]).await.unwrap() };
        let reading = async {
            let mut piece = vec![0; 64 << 10];
            while come < 100_000 {
                let len = lent.read(&mut piece).await.unwrap();
                assert!((1..=READ_MAX).contains(&len), "{len}");
                assert!(piece[..len].iter().all(|byte| *byte == b'x'));
                come += len;
            }
        };
        tokio::join!(sending, reading);
    }

    #[tokio::test]
    async fn nothing_but_an_end_in_order_is_told_as_an_end() {
        for half_closes in [false, true] {
            assert_eq!(told(half_closes, Some(true)).await, None);
            assert_eq!(told(half_closes, Some(false)).await, Some(ErrorKind::ConnectionReset));
            assert_eq!(told(half_closes, None).await, Some(ErrorKind::ConnectionReset));
        }
    }
}
