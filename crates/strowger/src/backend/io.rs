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

use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A request on which nothing moves for so long is over.
const REQUEST_STILL_SECS: u32 = 600;
/// A connection of another protocol on which nothing moves for so long is over.
const TUNNEL_STILL_SECS: u32 = 3600;

/// What others may do to a connection, and see of it.
#[derive(Debug)]
pub(crate) struct Control {
    cut: AtomicBool,
    waker: AtomicWaker,
    /// Something was received since it was last asked.
    received: AtomicBool,
    /// Something moved since the last sweep.
    moved: AtomicBool,
    still_secs: AtomicU32,
    still_limit_secs: AtomicU32,
}

impl Control {
    /// Ends the connection with an error on our side.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Whether something was received since the last call.
    pub(crate) fn take_received(&self) -> bool {
        self.received.swap(false, Ordering::Relaxed)
    }

    /// It carries another protocol than requests from now on.
    pub(crate) fn becomes_tunnel(&self) {
        self.still_limit_secs.store(TUNNEL_STILL_SECS, Ordering::Relaxed);
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

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }
}

/// A connection to a backend.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    control: Arc<Control>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        let control = Control {
            cut: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            received: AtomicBool::new(false),
            moved: AtomicBool::new(true),
            still_secs: AtomicU32::new(0),
            still_limit_secs: AtomicU32::new(REQUEST_STILL_SECS),
        };
        Self { stream, control: Arc::new(control) }
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
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the router closed the connection")
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        ready!(self.or_cut(cx, polled))?;
        if buf.filled().len() > before {
            self.control.received.store(true, Ordering::Relaxed);
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
        self.or_cut(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.or_cut(cx, polled)
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
