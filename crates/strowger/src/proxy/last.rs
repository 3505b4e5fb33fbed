//! Bodies that break off. hyper ends a connection whose answer does, with all that was not yet written of it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

/// A client has this long to take what came of an answer that broke off.
const TAKE_TIMEOUT: Duration = Duration::from_secs(600);

/// How far a connection's stream is with what it was given to write.
#[derive(Debug, Default)]
pub(super) struct Written {
    is_pending: AtomicBool,
    waker: AtomicWaker,
}

impl Written {
    /// Something was given to the stream, or it has no room for it.
    pub(super) fn begin(&self) {
        self.is_pending.store(true, Ordering::Relaxed);
    }

    /// Everything is with the kernel.
    pub(super) fn finish(&self) {
        self.is_pending.store(false, Ordering::Relaxed);
        self.waker.wake();
    }

    fn poll_finished(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.is_pending.load(Ordering::Relaxed) { Poll::Pending } else { Poll::Ready(()) }
    }
}

/// A body whose error comes when what came before is written.
#[derive(Debug)]
pub(super) struct ErrorLast<B: Body> {
    body: B,
    /// Why the body ended, and how long its client has.
    error: Option<(B::Error, Pin<Box<Sleep>>)>,
    /// None where one connection carries many answers: that of this one is given to it at once.
    written: Option<Arc<Written>>,
}

impl<B: Body> ErrorLast<B> {
    /// A body that goes to this stream.
    pub(super) fn new(body: B, written: Option<Arc<Written>>) -> Self {
        Self { body, error: None, written }
    }
}

impl<B> Body for ErrorLast<B>
where
    B: Body<Data = Bytes, Error: Unpin> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if let Some((_, late)) = &mut this.error {
            if let Some(written) = &this.written
                && late.as_mut().poll(cx).is_pending()
            {
                ready!(written.poll_finished(cx));
            }
            return Poll::Ready(this.error.take().map(|(error, _)| Err(error)));
        }
        match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Err(error)) => {
                this.error = Some((error, Box::pin(sleep(TAKE_TIMEOUT))));
                // What was taken of it, the head included, is given to the stream while there is nothing else to do.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            frame => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.error.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
