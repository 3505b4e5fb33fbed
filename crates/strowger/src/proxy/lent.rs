//! Clients' connections in the hands of hyper, which lets go of them when it is done: too early for what is on its way.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use daemon::{
    line::Line,
    relay::{discard, let_take, linger, tell_end},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
};
use tokio_rustls::server::TlsStream;

/// A stream that goes back to its owner when this is dropped.
pub(super) struct Lent<S> {
    /// There until then.
    stream: Option<S>,
    owner: Option<oneshot::Sender<Returned<S>>>,
    has_ended: bool,
}

/// A stream whose other end can be told of an error instead of an end.
pub(super) trait Resettable {
    /// Sees to it that it is told so when this is closed.
    fn reset_when_closed(&self);
}

impl Resettable for TcpStream {
    fn reset_when_closed(&self) {
        // It may be gone.
        let _ = self.set_zero_linger();
    }
}

impl Resettable for TlsStream<TcpStream> {
    fn reset_when_closed(&self) {
        self.get_ref().0.reset_when_closed();
    }
}

/// Where a stream comes back to.
pub(super) struct Owner<S>(oneshot::Receiver<Returned<S>>);

struct Returned<S> {
    stream: S,
    /// Whether the client has closed: there is nothing more to read.
    has_ended: bool,
}

/// Lends a stream.
pub(super) fn lend<S>(stream: S) -> (Lent<S>, Owner<S>) {
    let (owner, returned) = oneshot::channel();
    (Lent { stream: Some(stream), owner: Some(owner), has_ended: false }, Owner(returned))
}

impl<S> Owner<S>
where
    S: AsyncRead + AsyncWrite + Resettable + Unpin,
{
    /// Lets go of a stream that came back, when the client has taken what it was told. It is told of an end only where
    /// that `is_orderly`. One that was switched to another protocol has not come back.
    pub(super) async fn part(mut self, line: Option<Line>, is_orderly: bool) {
        let Ok(Returned { mut stream, has_ended: false }) = self.0.try_recv() else { return };
        if is_orderly {
            tell_end(&mut stream, line).await;
            linger(discard(&mut stream), line).await;
        } else {
            let_take(discard(&mut stream), line).await;
            // An answer may be one that its end tells the length of.
            stream.reset_when_closed();
        }
    }
}

impl<S> Lent<S> {
    /// The stream.
    pub(super) fn get(&self) -> Option<&S> {
        self.stream.as_ref()
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
        let read = ready!(self.as_mut().pinned()?.poll_read(cx, buf));
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
        self.pinned()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pinned()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.get().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_shutdown(cx)
    }
}
