//! An HTTP/1.1 connection to a backend, driven by whoever uses it: no task of its own, no hand-over between tasks.

use std::{
    error::Error,
    future::{Future, poll_fn},
    io::{self, ErrorKind},
    iter::successors,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::{
    Request, Response, Version,
    body::Incoming,
    client::conn::http1::{Builder, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Backend, Busy, ConnectError, Control, Lease, Socket, go_ahead::GoAhead, slow::PaceWatch,
};
use crate::domain::headers::{HEAD_MAX, HEADERS_MAX, clean_trailers};

/// The body of a request on its way to a backend; none if there is none, so that such a request can be built again.
#[derive(Debug)]
pub(crate) struct RequestBody {
    body: Option<Incoming>,
    /// How much of it was read.
    received: Option<Arc<AtomicU64>>,
    /// Whether it says itself that it has ended, as one of HTTP/2 does: where its client gives up with `NO_ERROR`, nothing
    /// more comes and there is no error either.
    says_end: bool,
    /// Of the connection it goes to.
    control: Option<Arc<Control>>,
    /// Whether it is a file that has to come at some pace. A body whose length is not told may be a stream of events.
    is_paced: bool,
    pace: Option<PaceWatch>,
    /// There until its backend has asked for it.
    go_ahead: Option<GoAhead>,
}

/// The body of a request cannot be read, which is the client's doing and not the backend's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// It cannot be read.
    #[error("the body of the request broke off or is not HTTP")]
    Broken(#[source] Option<hyper::Error>),
    /// Nearly nothing of it comes.
    #[error("the body of the request comes too slowly")]
    Slow,
}

impl RequestBody {
    /// That of a request of this version.
    pub(crate) fn new(body: Incoming, version: Version) -> Self {
        let is_paced = body.size_hint().exact().is_some();
        let body = (!body.is_end_stream()).then_some(body);
        let says_end = version == Version::HTTP_2;
        let received = body.is_some().then(Arc::default);
        Self { body, received, says_end, is_paced, ..Self::none() }
    }

    /// None.
    pub(crate) fn none() -> Self {
        Self {
            body: None,
            received: None,
            says_end: false,
            control: None,
            is_paced: false,
            pace: None,
            go_ahead: None,
        }
    }

    /// The bytes of it that were read, as they will be; none if there is none.
    pub(crate) fn received(&self) -> Option<Arc<AtomicU64>> {
        self.received.clone()
    }

    /// Whether there is none.
    pub(crate) fn is_none(&self) -> bool {
        self.body.is_none()
    }

    /// Holds it back.
    pub(super) fn wait_for(&mut self, go_ahead: GoAhead) {
        self.go_ahead = Some(go_ahead);
    }

    /// It goes to this connection, which is told how far it is.
    pub(crate) fn goes_to(&mut self, control: &Arc<Control>) {
        control.begin_request();
        match self.body {
            Some(_) => self.control = Some(control.clone()),
            None => control.end_request(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.go_ahead.as_mut().is_some_and(|go_ahead| go_ahead.poll(cx).is_pending()) {
            return Poll::Pending;
        }
        self.go_ahead = None;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let Poll::Ready(polled) = Pin::new(&mut *body).poll_frame(cx) else {
            if self.is_paced {
                let pace = self.pace.get_or_insert_with(PaceWatch::begin);
                return pace.poll_slow(cx).map(|()| Some(Err(BodyError::Slow)));
            }
            return Poll::Pending;
        };
        Poll::Ready(match polled {
            Some(Ok(mut frame)) => {
                if let (Some(pace), Some(data)) = (&mut self.pace, frame.data_ref()) {
                    pace.add(data.len());
                }
                if let (Some(data), Some(received)) = (frame.data_ref(), &self.received) {
                    received.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                frame.trailers_mut().map(clean_trailers);
                Some(Ok(frame))
            }
            Some(Err(err)) => Some(Err(BodyError::Broken(Some(err)))),
            None if self.says_end && !body.is_end_stream() => Some(Err(BodyError::Broken(None))),
            None => None,
        })
    }
}

impl BodyError {
    /// Whether that is why a request could not be sent.
    pub(crate) fn is_cause_of(error: &hyper::Error) -> bool {
        Self::cause_of(error).is_some()
    }

    /// Why a request could not be sent, if it is that.
    pub(crate) fn cause_of(error: &hyper::Error) -> Option<&Self> {
        error.source().and_then(|source| source.downcast_ref())
    }

    /// Whether what came of the body is not HTTP, as opposed to what did not come.
    pub(crate) fn is_malformed(error: &hyper::Error) -> bool {
        let causes = successors(error.source(), |&cause| cause.source());
        let mut kinds = causes.filter_map(|cause| cause.downcast_ref::<io::Error>());
        kinds.any(|err| matches!(err.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.poll(cx);
        let Some(control) = &self.control else { return polled };
        let is_at_end = match &polled {
            Poll::Ready(Some(Ok(_))) => self.is_end_stream(),
            Poll::Ready(None) => true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        control.await_client(polled.is_pending());
        if is_at_end {
            control.end_request();
            self.control = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The connection was closed before anything of the request was taken: here it is again.
    Unsent(Box<Request<RequestBody>>),
    /// Nothing came for too long: of the rest of the request, if its client `is_awaited`, or else of the answer.
    Still {
        /// See above.
        is_awaited: bool,
    },
    /// The connection was lost.
    Lost {
        /// Whether another try is pointless: an answer had begun, or the client broke off.
        is_final: bool,
        /// Whether the router closed the connection itself: the backend may be at work on it.
        is_cut: bool,
        /// Why, if it is known.
        error: Option<hyper::Error>,
    },
}

impl SendError {
    fn lost(control: &Control, error: Option<hyper::Error>) -> Self {
        let by_client = error.as_ref().is_some_and(BodyError::is_cause_of);
        if control.stood_still() {
            return Self::Still { is_awaited: control.is_client_awaited() };
        }
        let is_final = control.take_received() || by_client;
        Self::Lost { is_final, is_cut: control.is_cut(), error }
    }
}

/// A connection to a backend with room for one request at a time.
#[derive(Debug)]
pub(crate) struct Upstream {
    send: SendRequest<RequestBody>,
    connection: Connection<TokioIo<Socket>, RequestBody>,
    control: Arc<Control>,
    over: bool,
}

/// The two ends of a connection in the hands of hyper: the one takes requests, the other carries them.
pub(crate) type Ends = (SendRequest<RequestBody>, Connection<TokioIo<Socket>, RequestBody>);

/// Puts a new connection into the hands of hyper.
pub(crate) async fn handshake(socket: Socket) -> Result<Ends, ConnectError> {
    let mut builder = Builder::new();
    builder.max_buf_size(HEAD_MAX).max_headers(HEADERS_MAX);
    builder.handshake(TokioIo::new(socket)).await.map_err(ConnectError::Lost)
}

impl Backend {
    /// A new connection for requests.
    pub(crate) async fn open(&self, patience: Duration) -> Result<Box<Upstream>, ConnectError> {
        let socket = self.connect(patience).await?;
        let control = socket.control().clone();
        let (send, connection) = handshake(socket).await?;
        Ok(Box::new(Upstream { send, connection, control, over: false }))
    }
}

impl Upstream {
    /// Does what there is to do on the connection.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> Option<hyper::Error> {
        if self.over {
            return None;
        }
        match Pin::new(&mut self.connection).poll(cx) {
            Poll::Ready(ended) => {
                self.over = true;
                ended.err()
            }
            Poll::Pending => None,
        }
    }

    /// Its control.
    pub(super) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Whether its request is still being sent.
    pub(crate) fn is_sending(&self) -> bool {
        !self.control.is_request_sent()
    }

    /// Gives it a task of its own, so that it goes on whether the answer is read or not: a client may send all of its request
    /// before it reads. The task ends with the lease.
    pub(crate) fn into_driven(self, busy: Busy) -> (impl Future<Output = ()> + use<>, Lease) {
        let Self { connection, control, .. } = self;
        let ended = CancellationToken::new();
        let lease = Lease::of_driven(control, Some(ended.clone().drop_guard()), busy);
        let driven = async move {
            if let Some(Err(err)) = ended.run_until_cancelled(connection).await {
                debug!(error = %err, "a connection to a backend ended early");
            }
        };
        (driven, lease)
    }

    /// Whether it was closed.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether it is open and ready for a request.
    pub(super) fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.over && self.send.is_ready() && !self.control.is_broken()
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        request.body_mut().goes_to(&self.control);
        let mut answer = pin!(self.send.try_send_request(request));
        let mut error = None;
        poll_fn(|cx| {
            if !self.over
                && let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx)
            {
                self.over = true;
                error = ended.err();
            }
            match answer.as_mut().poll(cx) {
                Poll::Ready(Ok(response)) => {
                    self.control.begin_answer();
                    Poll::Ready(Ok(response))
                }
                Poll::Ready(Err(mut err)) => Poll::Ready(Err(match err.take_message() {
                    Some(request) => SendError::Unsent(Box::new(request)),
                    None => SendError::lost(&self.control, Some(err.into_error())),
                })),
                Poll::Pending if self.over => {
                    Poll::Ready(Err(SendError::lost(&self.control, error.take())))
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}
