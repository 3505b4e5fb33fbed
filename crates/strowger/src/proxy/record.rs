//! One record a request: made when its head was accepted, ended when its answer has ended, broke off, or the client went.

use std::{
    borrow::Cow,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Response, StatusCode, Uri, Version, header::HOST,
    request::Parts,
};
use http_body::{Body, Frame, SizeHint};
use jiff::Timestamp;
use tracing::{Level, debug};

use super::{
    answer::{Answer, AnswerError, Failure},
    request::Context,
};
use crate::{
    domain::{code::Code, entry::Entry, headers::X_REQUEST_ID},
    live::Target,
    meters::Ended,
};

/// The status told of a request whose client went before it had one.
const CLIENT_GONE: u16 = 499;

/// A request, until this is dropped at the latest: where nothing else was said, its client has gone.
#[derive(Debug)]
pub(super) struct Record {
    context: Arc<Context>,
    facts: Facts,
    is_over: bool,
}

#[derive(Debug, Clone)]
struct Facts {
    at: Timestamp,
    begun: Instant,
    version: Version,
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    id: Option<HeaderValue>,
    target: Option<Arc<Target>>,
    backend: Option<SocketAddr>,
    /// How often it was given to a backend.
    sent_times: u32,
    connected: Option<Duration>,
    answered: Option<Duration>,
    /// Of the answer, 0 before.
    status: u16,
    code: Option<Code>,
    error: Option<Cow<'static, str>>,
    /// Bytes of the request's body, if it has one.
    received: Option<Arc<AtomicU64>>,
    sent: u64,
}

impl Record {
    /// A request of which nothing but the first line is known.
    pub(super) fn begin(
        context: Arc<Context>,
        parts: &Parts,
        received: Option<Arc<AtomicU64>>,
        at: Timestamp,
    ) -> Self {
        let facts = Facts {
            at,
            begun: Instant::now(),
            version: parts.version,
            method: parts.method.clone(),
            uri: Uri::default(),
            host: None,
            id: None,
            target: None,
            backend: None,
            sent_times: 0,
            connected: None,
            answered: None,
            status: 0,
            code: None,
            error: None,
            received,
            sent: 0,
        };
        context.begin();
        Self { context, facts, is_over: false }
    }

    /// Its head, as backends get it.
    pub(super) fn read(&mut self, parts: &Parts) {
        let of = |name: HeaderName| parts.headers.get(name).cloned();
        self.facts.uri = parts.uri.clone();
        self.facts.host = of(HOST);
        self.facts.id = of(X_REQUEST_ID.clone());
    }

    /// Where it leads.
    pub(super) fn routed(&mut self, target: &Arc<Target>) {
        target.service.tally().begin();
        self.facts.target = Some(target.clone());
    }

    /// There is a connection to a backend for it.
    pub(super) fn connected(&mut self, backend: SocketAddr, is_kept: bool) {
        let facts = &mut self.facts;
        facts.backend = Some(backend);
        facts.sent_times += 1;
        let took = if is_kept { Duration::ZERO } else { facts.begun.elapsed() };
        facts.connected = Some(took);
    }

    /// There is none; which backend was tried last.
    pub(super) fn unconnected(&mut self, backend: Option<SocketAddr>) {
        self.facts.backend = backend.or(self.facts.backend);
    }

    /// The head of the answer is there, or will not be.
    pub(super) fn answered(&mut self, answer: &Response<Answer>, failure: Option<&Failure>) {
        self.facts.answered = Some(self.facts.begun.elapsed());
        self.facts.status = answer.status().as_u16();
        self.facts.code = failure.and_then(Failure::code);
        self.facts.error = failure.map(|failure| failure.to_string().into());
    }

    /// Goes on as that of the connection it was upgraded to, which is answered with this status.
    pub(super) fn hand_over(&mut self, status: StatusCode) -> Self {
        self.is_over = true;
        self.facts.answered = Some(self.facts.begun.elapsed());
        self.facts.status = status.as_u16();
        Self { context: self.context.clone(), facts: self.facts.clone(), is_over: false }
    }

    /// The connection that it was upgraded to is over: bytes from the client, and to it.
    pub(super) fn closed(mut self, (received, sent): (u64, u64)) {
        self.facts.received = Some(Arc::new(received.into()));
        self.facts.sent = sent;
        self.end(None);
    }

    /// It is over; where that is not as its app wanted, why.
    fn end(&mut self, broken: Option<(Code, &'static str)>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let facts = &mut self.facts;
        if let Some((code, why)) = broken {
            (facts.code, facts.error) = (Some(code), Some(why.into()));
        }
        if facts.status == 0 {
            facts.status = CLIENT_GONE;
        }
        self.context.end();
        self.count();
        if tracing::enabled!(target: "access", Level::DEBUG) {
            let line = serde_json::to_string(&self.entry()).unwrap_or_default();
            debug!(target: "access", "{line}");
        }
    }

    fn count(&self) {
        let facts = &self.facts;
        let ended = Ended {
            status: facts.status,
            answered: facts.answered,
            received: facts.received(),
            sent: facts.sent,
            resent: facts.resent(),
            code: facts.code,
        };
        match &facts.target {
            Some(target) => target.service.tally().end(&ended),
            None => {
                let unrouted = &self.context.live.meters.unrouted;
                unrouted.begin();
                unrouted.end(&ended);
            }
        }
    }

    fn entry(&self) -> Entry<'_> {
        let (facts, client) = (&self.facts, &self.context.client);
        Entry {
            at: facts.at,
            ms: millis(facts.begun.elapsed()),
            connect_ms: facts.connected.map(millis),
            service_ms: facts.answered.map(millis),
            request_id: text(facts.id.as_ref()),
            method: facts.method.as_str(),
            host: text(facts.host.as_ref()),
            path: facts.uri.path(),
            proto: text(Some(&client.proto)),
            version: version(facts.version),
            client: text(Some(&client.ip)),
            route: facts.target.as_ref().map(|target| target.route.id.as_str()),
            service: facts.target.as_ref().map(|target| target.service.name()),
            backend: facts.backend,
            resent: facts.resent(),
            bytes_in: facts.received(),
            bytes_out: facts.sent,
            status: facts.status,
            code: facts.code.map_or("", Code::name),
            error: facts.error.as_deref(),
        }
    }
}

impl Facts {
    fn resent(&self) -> u32 {
        self.sent_times.saturating_sub(1)
    }

    fn received(&self) -> u64 {
        self.received.as_ref().map_or(0, |bytes| bytes.load(Ordering::Relaxed))
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(Some((Code::H27, "the client went")));
    }
}

fn text(value: Option<&HeaderValue>) -> &str {
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// The body of an answer, with the record of its request: that ends with it.
#[derive(Debug)]
pub(super) struct Recorded {
    answer: Answer,
    record: Record,
}

impl Recorded {
    pub(super) fn new(answer: Answer, record: Record) -> Self {
        Self { answer, record }
    }
}

impl Body for Recorded {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let Self { answer, record } = &mut *self;
        let frame = ready!(Pin::new(&mut *answer).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                record.facts.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Some(Err(_)) => record.end(Some(answer.fault())),
            None => record.end(None),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // Whose length is known is not asked whether that was all, and the body of an answer to HEAD is not asked for.
        if self.answer.is_end_stream() || self.record.facts.method == Method::HEAD {
            self.record.end(None);
        }
    }
}
