//! What clients get: a backend's answer as it comes, or a sentence of our own.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::{
    backend::{BodyError, Busy, ConnectError, Upstream},
    domain::headers::clean_trailers,
    gate::FullError,
};

/// When a client may try again what could not be served, in seconds.
const RETRY_SECS: &str = "5";

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// A backend's, from a connection that is given back when it has ended.
    Relayed(Relay),
    /// Our own, or none.
    Own(Option<Bytes>),
}

/// A backend's body with the connection it comes from.
#[derive(Debug)]
pub(super) struct Relay {
    body: Incoming,
    from: Option<(Box<Upstream>, Busy)>,
    /// Counted where the connection has a task of its own.
    _busy: Option<Busy>,
}

impl Answer {
    /// The body of an answer on a connection that this request alone used.
    pub(super) fn relay(body: Incoming, upstream: Box<Upstream>, busy: Busy) -> Self {
        let mut relay = Relay { body, from: Some((upstream, busy)), _busy: None };
        if relay.body.is_end_stream() {
            relay.end();
            return Self::Own(None);
        }
        Self::Relayed(relay)
    }

    /// The body of an answer on a connection that has a task of its own and is not used again.
    pub(super) fn alone(body: Incoming, busy: Busy) -> Self {
        Self::Relayed(Relay { body, from: None, _busy: Some(busy) })
    }
}

impl Relay {
    /// Gives the connection back.
    fn end(&mut self) {
        if let Some((upstream, busy)) = self.from.take() {
            busy.end_with(upstream);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending()
            && let Some((upstream, _)) = &mut self.from
            && !upstream.is_over()
        {
            // An error of the connection arrives in the body as well.
            let _ = upstream.drive(cx);
            polled = Pin::new(&mut self.body).poll_frame(cx);
        }
        match polled {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    clean_trailers(trailers);
                }
                if self.body.is_end_stream() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.from = None;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Relayed(relay) => relay.poll(cx),
            Self::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Relayed(relay) => relay.from.is_none() && relay.body.is_end_stream(),
            Self::Own(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Relayed(relay) => relay.body.size_hint(),
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

/// Why a request is not answered by a backend.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the request was refused: {}", .0.1)]
    Refused(crate::domain::headers::Refusal),
    #[error("no route leads there")]
    NoRoute,
    #[error("the routes are not known yet")]
    NotReady,
    #[error("the service has no backend")]
    NoBackend,
    #[error("no backend could be connected to")]
    Unreachable(#[source] ConnectError),
    #[error("the backend closed the connection before it answered")]
    Lost(#[source] Option<hyper::Error>),
    #[error("the backend's answer cannot be passed on: {0}")]
    Unreadable(&'static str),
    #[error("the request could not be sent to its end")]
    Broken(#[source] hyper::Error),
    #[error("the request is not taken on")]
    Overloaded(#[source] FullError),
    #[error("the backend did not begin to answer in time")]
    Silent,
    #[error("the client does not send the rest of its request")]
    Stalled,
}

impl Failure {
    /// No answer came.
    pub(super) fn lost(error: Option<hyper::Error>) -> Self {
        match error {
            Some(error) if BodyError::is_cause_of(&error) => Self::Broken(error),
            Some(error) if error.is_parse() => Self::Unreadable("its head is none or too large"),
            error => Self::Lost(error),
        }
    }

    /// Nothing came for too long: of the rest of the request, if its client is awaited, or else of the answer.
    pub(super) fn still(is_client_awaited: bool) -> Self {
        if is_client_awaited { Self::Stalled } else { Self::Silent }
    }

    /// Heroku's code for it.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Refused(_) | Self::NoRoute | Self::NotReady | Self::Broken(_) => "",
            Self::Overloaded(FullError::Share) => "H11",
            Self::Overloaded(FullError::Whole) => "H99",
            Self::Silent => "H12",
            Self::Stalled => "H28",
            Self::NoBackend => "H14",
            Self::Unreachable(ConnectError::Timeout(_)) => "H19",
            Self::Unreachable(ConnectError::Exhausted(_)) => "H99",
            Self::Unreachable(_) => "H21",
            Self::Lost(_) => "H13",
            Self::Unreadable(_) => "H17",
        }
    }

    /// What the client is told.
    pub(super) fn to_response(&self) -> Response<Answer> {
        let (status, text) = match self {
            Self::Refused(refusal) => (refusal.0, refusal.1),
            Self::NoRoute => (404, "There is no app at this address."),
            Self::Overloaded(FullError::Share) => {
                (503, "The app has too many requests under way. Try again in a little while.")
            }
            Self::Unreachable(ConnectError::Exhausted(_)) | Self::Overloaded(FullError::Whole) => {
                (503, "This router is overloaded. Try again in a little while.")
            }
            Self::NoBackend | Self::Unreachable(_) => {
                (503, "The app is not running at the moment. Try again in a little while.")
            }
            Self::NotReady => (503, "This router has just started. Try again in a few seconds."),
            Self::Lost(_) => (502, "The app closed the connection without an answer."),
            Self::Unreadable(_) => {
                (502, "The app gave an answer that is not HTTP/1.1, or has too large a head.")
            }
            Self::Silent => (504, "The app did not begin to answer in time."),
            Self::Stalled => (408, "The rest of the request did not come in time."),
            Self::Broken(_) => (400, "The body of the request could not be read."),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        let text = format!("{status}\n\n{text}\n");
        let mut response = Response::new(Answer::Own(Some(text.into())));
        *response.status_mut() = status;
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECS));
        }
        response
    }
}
