//! A request's way to a backend.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use daemon::Lifetime;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header::EXPECT,
    request::Parts, response,
};
use http_body::Body;
use hyper::body::Incoming;
use rand::RngExt;
use tracing::debug;

use super::{
    answer::{Answer, Failure},
    record::Record,
    sticky::{Session, tell},
};
use crate::{
    backend::{
        Backend, Busy, CONNECT_TIMEOUT, ConnectError, HASTY_TIMEOUT, Lease, RequestBody, SendError,
        Service, Set, Socket, Upstream, now_ms, wait_to_be_asked,
    },
    domain::{
        headers::clean_answer,
        outlier::Peers,
        pick::{Asker, Candidate, Standing, TRIES, Tried, pick},
    },
    gate::Place,
    live::Target,
};

/// A request that cannot be sent again takes a connection which was used not longer ago than this, or a new one.
const FRESH: Duration = Duration::from_secs(1);
/// A request waits so long for a process that takes no connection because it is busy with others; where another process is
/// free it goes there.
const BUSY_LIMIT: Duration = Duration::from_secs(30);
/// The body of a request is on its way together with its head if it has no more bytes than these.
const SMALL: u64 = 16 << 10;
/// How often the same request is begun anew because a connection had been closed before anything of it was taken.
const STALE_LIMIT: u32 = 3;

/// The backends of a service, one after the other, while a request looks for one that takes it.
pub(super) struct Search<'a> {
    service: &'a Service,
    /// Among the requests that are under way to the service, until a backend has it.
    place: Option<Place>,
    leader_only: bool,
    set: Arc<Set>,
    tried: Tried,
    tries: usize,
    last: Option<ConnectError>,
    /// The one that did not take a connection.
    failed: Option<SocketAddr>,
    begun: Instant,
    /// Where its client is kept, if it is.
    session: Option<Session<'a>>,
    /// Whether the one that is tried now is that.
    is_kept: bool,
    /// Whether it may be sent again, and so try a backend that failed.
    is_repeatable: bool,
    /// Whether one of those that were tried did not answer: it may be busy.
    is_waited_for: bool,
    /// Whether one of those lost the request: it gets it again if there is no other.
    has_lost: bool,
}

/// Which request is sent again, once, whose connection was lost before its answer began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// None: what was asked for may have been done.
    Never,
    /// One on a kept connection, which most likely had been closed.
    IfKept,
    /// Any: it asks for nothing to be done.
    Always,
}

impl<'a> Search<'a> {
    /// Begins, unless too much is under way.
    pub(super) fn begin(target: &'a Target) -> Result<Self, Failure> {
        let service = &*target.service;
        let place = Some(service.admit().map_err(Failure::Overloaded)?);
        let set = service.set();
        let leader_only = target.route.leader;
        Ok(Self {
            service,
            place,
            leader_only,
            set,
            tried: Tried::default(),
            tries: 0,
            last: None,
            failed: None,
            begun: Instant::now(),
            session: None,
            is_kept: false,
            is_repeatable: false,
            is_waited_for: false,
            has_lost: false,
        })
    }

    /// For a request of a client that is kept at a backend, perhaps.
    pub(super) fn keeping(self, session: Option<Session<'a>>) -> Self {
        Self { session, ..self }
    }

    /// What the client is to be told of where it is kept.
    pub(super) fn cookie(&self, backend: &Backend, answer: &HeaderMap) -> Option<HeaderValue> {
        self.session.as_ref()?.cookie(backend, answer)
    }

    /// For a request that may be sent again, or not.
    fn repeatable(self, is_repeatable: bool) -> Self {
        Self { is_repeatable, ..self }
    }

    /// The backends of which one is looked for.
    pub(super) fn peers(&self) -> Peers {
        self.set.peers()
    }

    /// The next backend to try. It counts the request from then on.
    pub(super) fn next(&mut self) -> Result<(usize, Busy), Failure> {
        loop {
            if let Some(found) = self.pick() {
                return Ok(found);
            }
            if std::mem::take(&mut self.has_lost) {
                self.tried = Tried::default();
                continue;
            }
            let now = self.service.set();
            let all_were_tried = Arc::ptr_eq(&now, &self.set) || self.tries >= TRIES;
            if std::mem::take(&mut self.is_waited_for) && self.begun.elapsed() < BUSY_LIMIT {
                // Each round of those waits for at least one of them.
                self.tries = 0;
            } else if all_were_tried {
                return Err(self.last.take().map_or(Failure::NoBackend, Failure::Unreachable));
            }
            self.set = now;
            self.tried = Tried::default();
        }
    }

    fn pick(&mut self) -> Option<(usize, Busy)> {
        if self.tries >= TRIES || self.tried.is_full() {
            return None;
        }
        let kept = self.kept();
        self.is_kept = kept.is_some();
        if kept.is_some() {
            return kept;
        }
        let backends = match &self.set.leader {
            Some(leader) if self.leader_only => std::slice::from_ref(leader),
            None if self.leader_only => &[],
            _ => &self.set.backends[..],
        };
        let (tried, is_repeatable) = (&self.tried, self.is_repeatable);
        loop {
            let asker = Asker { tried, is_repeatable, now_ms: now_ms() };
            let index = pick(backends, &asker, |n| rand::rng().random_range(0..n))?;
            // It may have been withdrawn this very moment, or be tried by another request; then it is not picked again.
            if let Some(busy) = Busy::begin(&backends[index])
                && busy.backend().admits()
            {
                return Some((index, busy));
            }
        }
    }

    /// The backend its client is kept at, while it is there and good.
    fn kept(&self) -> Option<(usize, Busy)> {
        let index = self.session.as_ref()?.backend(&self.set)?;
        let backend = &self.set.backends[index];
        let is_out = matches!(backend.standing(now_ms()), Standing::Last | Standing::Gone);
        if is_out || self.leader_only || self.tried.has(index) {
            return None;
        }
        let busy = Busy::begin(backend).filter(|busy| busy.backend().admits());
        busy.map(|busy| (index, busy))
    }

    /// How long to wait for the one that is tried now.
    pub(super) fn patience(&self) -> Duration {
        let others = self.set.backends.len().min(TRIES).saturating_sub(self.tries + 1);
        let is_hasty = others > 0 && !self.leader_only && !self.is_kept;
        if is_hasty { HASTY_TIMEOUT } else { CONNECT_TIMEOUT }
    }

    /// It could not be connected to.
    pub(super) fn failed(&mut self, index: usize, backend: &Backend, err: ConnectError) {
        debug!(backend = %backend.addr(), error = %err, "a backend could not be connected to");
        backend.failed(&err, self.peers());
        self.tried.add(index);
        self.tries += 1;
        self.is_waited_for |= matches!(err, ConnectError::Timeout(_));
        self.last = Some(err);
        self.failed = Some(backend.addr());
        self.service.tally().unconnected();
    }

    /// It lost the request, which goes to another one if there is any; or to where its client is kept, if only a kept
    /// connection was lost.
    fn lost(&mut self, index: usize, reused: bool) {
        if !(reused && self.is_kept) {
            self.tried.add(index);
        }
        self.has_lost = true;
    }

    /// The backend that was the last to take no connection, if one did not.
    pub(super) fn failed_last(&self) -> Option<SocketAddr> {
        self.failed
    }

    /// A connection to whichever backend takes one, for bytes.
    pub(super) async fn connect(&mut self) -> Result<(Socket, Busy), Failure> {
        loop {
            let (index, mut busy) = self.next()?;
            match busy.backend().connect(self.patience()).await {
                Ok(socket) => {
                    busy.keep_place(self.place.take());
                    return Ok((socket, busy));
                }
                Err(err) => self.failed(index, busy.backend(), err),
            }
        }
    }
}

/// Sends a request to a backend of the target's service and passes on the answer.
pub(super) async fn forward(
    lifetime: &Lifetime,
    mut parts: Parts,
    body: RequestBody,
    target: &Target,
    record: &mut Record,
) -> Result<Response<Answer>, Failure> {
    let repeat = Repeat::of(&parts.method, !body.is_none());
    let mut max_idle = if repeat == Repeat::Never { FRESH } else { Duration::MAX };
    let mut search = begin(&mut parts, target).await?.repeatable(repeat == Repeat::Always);
    // One with a large body waits for its client.
    let is_telling = body.size_hint().upper().is_some_and(|length| length <= SMALL);
    let mut request = Request::from_parts(parts, body);
    if request.headers().contains_key(EXPECT) {
        wait_to_be_asked(&mut request);
    }
    target.service.count();
    let (mut lost, mut unsent) = (None, 0);
    loop {
        let (index, mut upstream, mut busy, reused) = match upstream(&mut search, max_idle).await {
            Ok(found) => found,
            Err(failure) => {
                record.unconnected(search.failed_last());
                return Err(lost.unwrap_or(failure));
            }
        };
        record.connected(busy.backend().addr(), reused);
        let copy = (lost.is_none() && repeat.allows(reused)).then(|| copy(&request));
        let sent = is_telling.then(Instant::now);
        match upstream.send(request).await {
            Ok(response) => {
                busy.backend().answered(response.status(), sent, || search.peers());
                busy.keep_place(search.place.take());
                let cookie = search.cookie(busy.backend(), response.headers());
                let mut answer = relay(lifetime, response, upstream, busy)?;
                tell(cookie, answer.headers_mut());
                return Ok(answer);
            }
            Err(SendError::Unsent(again)) if unsent < STALE_LIMIT => {
                unsent += 1;
                request = *again;
            }
            Err(SendError::Unsent(_)) => return Err(Failure::Lost(None)),
            Err(SendError::Still { is_awaited }) => return Err(Failure::still(is_awaited)),
            Err(SendError::Lost { is_final: true, error, .. }) => {
                return Err(lose(error, busy.backend(), &search));
            }
            Err(SendError::Lost { is_final: false, is_cut, error }) => {
                if !reused && !is_cut {
                    busy.backend().lost(search.peers());
                }
                let failure = Failure::lost(error);
                // One that the router cut had not been closed before.
                let copy = copy.filter(|_| repeat.allows(reused && !is_cut));
                let Some(copy) = copy.filter(|_| target.service.may_repeat()) else {
                    return Err(failure);
                };
                debug!(backend = %busy.backend().addr(), "a request is sent once more");
                search.lost(index, reused);
                (lost, request) = (Some(failure), copy);
            }
        }
        // The kept connection had been closed; the others may have been, too.
        max_idle = Duration::ZERO;
    }
}

/// Begins to look for a backend as soon as the service has one.
pub(super) async fn begin<'a>(
    parts: &mut Parts,
    target: &'a Target,
) -> Result<Search<'a>, Failure> {
    let session = Session::take(parts, target);
    target.service.wait_for_backend().await;
    Ok(Search::begin(target)?.keeping(session))
}

/// A request is lost for good, be it because its backend does not speak HTTP.
fn lose(error: Option<hyper::Error>, backend: &Backend, search: &Search<'_>) -> Failure {
    let failure = Failure::lost(error);
    if matches!(failure, Failure::Unreadable(_)) {
        backend.babbled(search.peers());
    }
    failure
}

/// A connection to whichever backend takes one, for requests; and whether it was used before.
async fn upstream(
    search: &mut Search<'_>,
    max_idle: Duration,
) -> Result<(usize, Box<Upstream>, Busy, bool), Failure> {
    loop {
        let (index, busy) = search.next()?;
        if max_idle > Duration::ZERO
            && let Some(upstream) = busy.backend().checkout(max_idle)
        {
            return Ok((index, upstream, busy, true));
        }
        match busy.backend().open(search.patience()).await {
            Ok(upstream) => return Ok((index, upstream, busy, false)),
            Err(err) => search.failed(index, busy.backend(), err),
        }
    }
}

impl Repeat {
    fn of(method: &Method, has_body: bool) -> Self {
        match method {
            _ if has_body => Self::Never,
            &Method::GET | &Method::HEAD | &Method::OPTIONS => Self::Always,
            method if method.is_idempotent() => Self::IfKept,
            _ => Self::Never,
        }
    }

    fn allows(self, reused: bool) -> bool {
        self == Self::Always || (self == Self::IfKept && reused)
    }
}

/// The same request again; it has no body.
fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::none());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn relay(
    lifetime: &Lifetime,
    response: Response<Incoming>,
    upstream: Box<Upstream>,
    busy: Busy,
) -> Result<Response<Answer>, Failure> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::Unreadable("it switches protocols, which nobody asked for"));
    }
    let (parts, body) = response.into_parts();
    let parts = clean(parts)?;
    let lease = if upstream.is_sending() && !body.is_end_stream() {
        let (driven, lease) = upstream.into_driven(busy);
        lifetime.spawn_drained(driven);
        lease
    } else {
        Lease::of(upstream, busy)
    };
    Ok(Response::from_parts(parts, Answer::relay(body, lease)))
}

/// The head of an answer, as clients get it.
pub(super) fn clean(mut parts: response::Parts) -> Result<response::Parts, Failure> {
    clean_answer(&mut parts.headers).map_err(Failure::Unreadable)?;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Ok(parts)
}
