//! A connection to a backend that can be cut from outside.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use daemon::line::Line;
use futures_util::task::AtomicWaker;
use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::sleep,
};

use super::lease::Held;

/// A request on which nothing moves for so long is over, but for the time until its answer begins, which has a limit of its
/// own.
pub(super) const REQUEST_STILL_SECS: u32 = 600;
/// A connection of another protocol on which nothing moves for so long is over.
const TUNNEL_STILL_SECS: u32 = 3600;
/// A side that does not take what the other one said before it was cut has this long to do so.
const CUT_GRACE: Duration = Duration::from_secs(2);

/// What others may do to a connection, and see of it.
#[derive(Debug)]
pub(crate) struct Control {
    cut: AtomicBool,
    /// Nothing that is written reaches the other side.
    broken: AtomicBool,
    tunnel: AtomicBool,
    waker: AtomicWaker,
    /// Tells whoever relays between the connection and another one.
    told: Notify,
    /// What uses the connection, if that is not polled all the time.
    held: Held,
    /// Something was received since it was last asked.
    received: AtomicBool,
    /// Something moved since the last sweep.
    moved: AtomicBool,
    still_secs: AtomicU32,
    still_limit_secs: AtomicU32,
    /// How long the first byte of an answer may take after the end of the request.
    answer_secs: u32,
    /// What is missing is the rest of the request, which its client does not send.
    is_client_awaited: AtomicBool,
    is_request_sent: AtomicBool,
}

impl Control {
    /// Ends the connection with an error on our side.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.waker.wake();
        self.told.notify_one();
        self.held.give_up();
    }

    /// What uses it.
    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// Waits until it was cut, and for a moment more, in which what was said before is passed on to whoever takes it.
    pub(crate) async fn until_given_up(&self) {
        while !self.is_cut() {
            self.told.notified().await;
        }
        sleep(CUT_GRACE).await;
    }

    /// Whether something was received since the last call.
    pub(crate) fn take_received(&self) -> bool {
        self.received.swap(false, Ordering::Relaxed)
    }

    /// Whether the other side takes nothing from now on, which is not told as an error before its answer was read.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// A request is sent from now on.
    pub(crate) fn begin_request(&self) {
        self.take_received();
        self.await_client(false);
        self.is_request_sent.store(false, Ordering::Relaxed);
        self.limit_stillness(REQUEST_STILL_SECS);
    }

    /// The request was sent whole.
    pub(crate) fn end_request(&self) {
        self.is_request_sent.store(true, Ordering::Relaxed);
        self.await_client(false);
        self.limit_stillness(self.answer_secs);
    }

    /// Whether it was.
    pub(crate) fn is_request_sent(&self) -> bool {
        self.is_request_sent.load(Ordering::Relaxed)
    }

    /// The head of its answer has come.
    pub(crate) fn begin_answer(&self) {
        self.limit_stillness(REQUEST_STILL_SECS);
    }

    /// Whether the client has to send more of its request.
    pub(crate) fn await_client(&self, is_awaited: bool) {
        self.is_client_awaited.store(is_awaited, Ordering::Relaxed);
    }

    /// Whether that is what was waited for at last.
    pub(crate) fn is_client_awaited(&self) -> bool {
        self.is_client_awaited.load(Ordering::Relaxed)
    }

    fn limit_stillness(&self, secs: u32) {
        self.still_secs.store(0, Ordering::Relaxed);
        self.still_limit_secs.store(secs, Ordering::Relaxed);
    }

    /// Whether it was cut because nothing moved.
    pub(crate) fn stood_still(&self) -> bool {
        let limit = self.still_limit_secs.load(Ordering::Relaxed);
        self.still_secs.load(Ordering::Relaxed) > limit
    }

    /// It carries another protocol than requests from now on.
    pub(crate) fn becomes_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
        self.limit_stillness(TUNNEL_STILL_SECS);
    }

    /// Called `every` so often; cuts a connection that stood still for too long.
    pub(crate) fn sweep(&self, every: Duration) {
        if self.moved.swap(false, Ordering::Relaxed) {
            self.still_secs.store(0, Ordering::Relaxed);
            return;
        }
        let more = every.as_secs() as u32;
        let still = self.still_secs.fetch_add(more, Ordering::Relaxed) + more;
        if still > self.still_limit_secs.load(Ordering::Relaxed) {
            self.cut();
        }
    }

    /// Whether it was.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }
}

/// A connection to a backend.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    control: Arc<Control>,
    /// Nothing more will be received.
    has_ended: bool,
    /// The backend reset the connection, of which a write was told: reads will be told of an end.
    was_reset: bool,
    /// The backend is told of an error when this is closed.
    is_reset_when_closed: bool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, answer_secs: u32) -> Self {
        let control = Control {
            cut: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            tunnel: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            told: Notify::new(),
            held: Held::default(),
            received: AtomicBool::new(false),
            moved: AtomicBool::new(true),
            still_secs: AtomicU32::new(0),
            still_limit_secs: AtomicU32::new(REQUEST_STILL_SECS),
            answer_secs,
            is_client_awaited: AtomicBool::new(false),
            is_request_sent: AtomicBool::new(true),
        };
        let (was_reset, is_reset_when_closed) = (false, false);
        Self {
            stream,
            control: Arc::new(control),
            has_ended: false,
            was_reset,
            is_reset_when_closed,
        }
    }

    /// Sees to it that the backend is told of an end when this is dropped: that of a tunnel is told of an error, also if the
    /// router is killed, until both sides of it have ended.
    pub(crate) fn end_when_closed(&self) {
        let _ = set_socket_linger(&self.stream, None);
    }

    fn reset_tunnel_when_closed(&mut self) {
        if !self.is_reset_when_closed && self.control.tunnel.load(Ordering::Relaxed) {
            self.is_reset_when_closed = true;
            // It may be gone.
            let _ = self.stream.set_zero_linger();
        }
    }

    /// Its line, if the kernel tells.
    pub(crate) fn line(&self) -> Option<Line> {
        Line::of(&self.stream)
    }

    /// Its control.
    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// What a poll came to, unless the connection was cut.
    fn or_cut<T>(&self, cx: &Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Ok(value)) => {
                self.control.moved.store(true, Ordering::Relaxed);
                Poll::Ready(Ok(value))
            }
            Poll::Ready(Err(err)) => Poll::Ready(Err(err)),
            Poll::Pending => {
                self.control.waker.register(cx.waker());
                if self.control.is_cut() { Poll::Ready(Err(cut())) } else { Poll::Pending }
            }
        }
    }

    /// The result of writing `len` bytes, where a failure counts as success until there is nothing left to read. A backend may
    /// answer and close before it has read all of a request. Its answer is in the receive buffer then, and would not be read
    /// if the failed write ended the request.
    fn or_discarded(
        &mut self,
        cx: &Context<'_>,
        polled: Poll<io::Result<usize>>,
        len: impl FnOnce() -> usize,
    ) -> Poll<io::Result<usize>> {
        let polled = self.or_cut(cx, polled);
        let is_tunnel = self.control.tunnel.load(Ordering::Relaxed);
        match polled {
            Poll::Ready(Err(err)) if !self.has_ended && !is_tunnel && !self.control.is_cut() => {
                self.control.broken.store(true, Ordering::Relaxed);
                // A backend that had closed in order before it was written to breaks the pipe.
                self.was_reset |= err.kind() != io::ErrorKind::BrokenPipe;
                Poll::Ready(Ok(len()))
            }
            polled => polled,
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the router closed the connection")
}

impl Drop for Socket {
    fn drop(&mut self) {
        // One whose client was gone before it was switched was not read since.
        self.reset_tunnel_when_closed();
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reset_tunnel_when_closed();
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let polled = ready!(self.or_cut(cx, polled));
        if buf.filled().len() > before {
            self.control.received.store(true, Ordering::Relaxed);
        } else if polled.is_err() || buf.remaining() > 0 {
            self.has_ended = true;
        }
        polled?;
        if self.has_ended && self.was_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.control.is_cut() { Poll::Ready(Err(cut())) } else { Poll::Ready(Ok(())) }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.or_discarded(cx, polled, || buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        let len = || bufs.iter().map(|buf| buf.len()).sum();
        self.or_discarded(cx, polled, len)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A connection whose other side said something and closed without reading what was sent to it.
    async fn refused() -> Socket {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = Socket::new(stream, REQUEST_STILL_SECS);
        socket.write_all(b"a large request").await.unwrap();
        let (mut backend, _) = listener.accept().await.unwrap();
        backend.readable().await.unwrap();
        backend.write_all(b"too large").await.unwrap();
        socket
    }

    #[tokio::test]
    async fn what_a_backend_said_before_it_closed_is_read_though_nothing_can_be_written() {
        let mut socket = refused().await;
        for _ in 0..3 {
            socket.write_all(b"more of it").await.unwrap();
        }
        assert!(socket.control().is_broken());
        let mut said = [0; 9];
        socket.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"too large");
        let end = socket.read(&mut said).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset, "its answer may not be all of it");
        socket.write_all(b"more of it").await.unwrap_err();
    }

    #[tokio::test]
    async fn a_tunnel_ends_when_nothing_can_be_written() {
        let mut socket = refused().await;
        socket.control().becomes_tunnel();
        socket.write_all(b"more of it").await.unwrap_err();
    }

    #[tokio::test]
    async fn a_tunnel_that_is_dropped_before_its_end_is_told_as_broken() {
        for ends in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut backend, _) = listener.accept().await.unwrap();
            let mut socket = Socket::new(stream, REQUEST_STILL_SECS);
            socket.control().becomes_tunnel();
            backend.write_all(b"hi").await.unwrap();
            socket.read_exact(&mut [0; 2]).await.unwrap();
            if ends {
                socket.end_when_closed();
            }
            drop(socket);
            assert_eq!(backend.read(&mut [0]).await.is_ok(), ends);
        }
    }
}
