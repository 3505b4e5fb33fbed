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
    backend::{BodyError, ConnectError, Lease},
    domain::{code::Code, headers::clean_trailers},
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
    /// There until it has ended.
    lease: Option<Lease>,
    /// Whose doing it is that the rest will not come.
    fault: Fault,
}

/// Why an answer broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The backend lost the connection, or what it says is not HTTP.
    Backend,
    /// Nothing moved for too long.
    Stillness,
    /// The client broke its request off.
    Client,
}

impl Answer {
    /// The body of an answer on a connection that this request alone uses.
    pub(super) fn relay(body: Incoming, lease: Lease) -> Self {
        let mut relay = Relay { body, lease: Some(lease), fault: Fault::Backend };
        if relay.body.is_end_stream() {
            relay.end();
            return Self::Own(None);
        }
        Self::Relayed(relay)
    }

    /// Why it broke off.
    pub(super) fn fault(&self) -> (Code, &'static str) {
        match self {
            Self::Relayed(Relay { fault: Fault::Stillness, .. }) => {
                (Code::H15, "nothing moved for too long before the answer ended")
            }
            Self::Relayed(Relay { fault: Fault::Client, .. }) => {
                (Code::H27, "the client broke its request off before the answer ended")
            }
            _ => (Code::H18, "the backend broke its answer off"),
        }
    }
}

impl Relay {
    /// Gives the connection back.
    fn end(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.end();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending()
            && let Some(driven) = self.lease.as_ref().and_then(|lease| lease.drive(cx))
        {
            // An error of the connection arrives in the body as well, but for what caused it.
            if driven.is_err_and(|error| BodyError::is_cause_of(&error)) {
                self.fault = Fault::Client;
            }
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
                if self.lease.take().is_some_and(|lease| lease.stood_still()) {
                    self.fault = Fault::Stillness;
                }
                Poll::Ready(Some(Err(AnswerError::Broken(error))))
            }
            // A connection that is let go of looks like one that has ended.
            Poll::Ready(None) if self.lease.as_ref().is_some_and(Lease::is_cut) => {
                if self.lease.take().is_some_and(|lease| lease.stood_still()) {
                    self.fault = Fault::Stillness;
                }
                Poll::Ready(Some(Err(AnswerError::Cut)))
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
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match &mut *self {
            Self::Relayed(relay) => relay.poll(cx),
            Self::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Relayed(relay) => relay.lease.is_none() && relay.body.is_end_stream(),
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

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("the backend's answer broke off")]
    Broken(#[source] hyper::Error),
    #[error("the router closed the connection to the backend")]
    Cut,
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
            Some(error) if matches!(BodyError::cause_of(&error), Some(BodyError::Slow)) => {
                Self::Stalled
            }
            Some(error) if BodyError::is_cause_of(&error) => Self::Broken(error),
            Some(error) if error.is_parse() => Self::Unreadable("its head is none or too large"),
            error => Self::Lost(error),
        }
    }

    /// Nothing came for too long: of the rest of the request, if its client is awaited, or else of the answer.
    pub(super) fn still(is_client_awaited: bool) -> Self {
        if is_client_awaited { Self::Stalled } else { Self::Silent }
    }

    /// Heroku's code for it, if it is of an app.
    pub(super) fn code(&self) -> Option<Code> {
        Some(match self {
            Self::Refused(_) | Self::NoRoute | Self::NotReady => return None,
            Self::Overloaded(FullError::Share) => Code::H11,
            Self::Silent => Code::H12,
            Self::NoBackend => Code::H14,
            Self::Unreachable(ConnectError::Timeout(_)) => Code::H19,
            Self::Unreachable(ConnectError::Exhausted(_)) | Self::Overloaded(FullError::Whole) => {
                Code::H99
            }
            Self::Unreachable(_) => Code::H21,
            Self::Lost(_) => Code::H13,
            Self::Unreadable(_) => Code::H17,
            Self::Stalled => Code::H28,
            Self::Broken(error) if BodyError::is_malformed(error) => Code::H26,
            Self::Broken(_) => Code::H27,
        })
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
