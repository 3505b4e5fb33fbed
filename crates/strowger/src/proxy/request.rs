//! One request of a client: which route it takes, and what is changed in its head.

use std::{
    borrow::Cow,
    convert::Infallible,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use daemon::line::Line;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, EXPECT, HOST, TRANSFER_ENCODING},
    request::Parts,
};
use http_body::Body;
use hyper::body::Incoming;
use jiff::Timestamp;

use super::{
    Client,
    answer::Failure,
    forward::forward,
    record::{Record, Recorded},
    secure, upgrade,
};
use crate::{
    backend::RequestBody,
    domain::{
        headers::{
            Refusal, X_FORWARDED_PORT, X_FORWARDED_PROTO, X_REQUEST_ID, X_REQUEST_START,
            append_forwarded_for, check_framing, count_down, is_request_id, is_too_large,
            join_cookies, strip_hop_by_hop,
        },
        host,
        strict::{check_absolute, check_expectation, check_target, drop_aliases, plain_length},
    },
    gate::Seat,
    live::{Live, Target},
    meters::Door,
};

/// What a client expects that sends a body only when it is told to.
const CONTINUE: &str = "100-continue";

/// What requests are served with.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) live: Arc<Live>,
    pub(super) client: Client,
    /// That of the client's connection, if the kernel tells.
    pub(super) line: Option<Line>,
    pub(super) lifetime: daemon::Lifetime,
    /// The connection's own among those of all clients.
    pub(super) seat: Option<Arc<Seat>>,
    /// Requests of the connection that have not ended.
    under_way: AtomicU32,
}

impl Context {
    /// What the requests of a connection that was just accepted are served with.
    pub(super) fn new(
        live: Arc<Live>,
        client: Client,
        line: Option<Line>,
        lifetime: daemon::Lifetime,
        seat: Option<Arc<Seat>>,
    ) -> Self {
        let context = Self { live, client, line, lifetime, seat, under_way: AtomicU32::new(0) };
        context.door().enter();
        context
    }

    /// One more request is under way.
    pub(super) fn begin(&self) {
        if self.under_way.fetch_add(1, Ordering::Relaxed) == 0 {
            self.live.meters.busy(1);
        }
    }

    /// One less is.
    pub(super) fn end(&self) {
        if self.under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.live.meters.busy(-1);
        }
    }

    fn door(&self) -> &Door {
        let meters = &self.live.meters;
        if self.client.is_secure { &meters.https } else { &meters.http }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.door().leave();
    }
}

/// Answers a request, whatever happens.
pub(super) async fn serve(
    context: Arc<Context>,
    request: Request<Incoming>,
) -> Result<Response<Recorded>, Infallible> {
    let now = Timestamp::now();
    let (mut parts, body) = request.into_parts();
    let version = parts.version;
    let body = RequestBody::new(body, version);
    let mut record = Record::begin(context.clone(), &parts, body.received(), now);
    let mut routed: Option<Arc<Target>> = None;
    let result = async {
        let prepared = prepare(&mut parts, &body, &context.client, now);
        record.read(&parts);
        let switch = prepared?;
        if let Some(told) = secure::well_known(&context, &parts).await {
            return Ok(told);
        }
        let target = routed.insert(route(&context.live, &parts)?);
        record.routed(target);
        if let Some(elsewhere) = secure::redirect(&context, &parts, target) {
            return Ok(elsewhere);
        }
        match switch {
            Some(protocol) => {
                upgrade::forward(&context, parts, body, target, protocol, &mut record).await
            }
            None => forward(&context.lifetime, parts, body, target, &mut record).await,
        }
    }
    .await;
    let (mut response, failure) = match result {
        Ok(response) => (response, None),
        Err(failure) => (failure.to_response(), Some(failure)),
    };
    record.answered(&response, failure.as_ref());
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if context.live.is_stopping() && version <= Version::HTTP_11 && !switches {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(target) = &routed {
        secure::announce(&context.client, target, response.headers_mut());
    }
    // What comes after a request that two could read differently is not read.
    let ends = version < Version::HTTP_2 && matches!(failure, Some(Failure::Refused(_)));
    if ends {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let body = response.body();
    if version == Version::HTTP_10 && !body.is_end_stream() && body.size_hint().exact().is_none() {
        // Where no length can be told, the end of the connection is the end of the body. To an answer of 1.1 hyper adds that
        // the connection is kept.
        *response.version_mut() = Version::HTTP_10;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|answer| Recorded::new(answer, record)))
}

/// Checks a head and makes it the one a backend gets. Answers with the protocol the client wants to switch to.
fn prepare(
    parts: &mut Parts,
    body: &RequestBody,
    client: &Client,
    now: Timestamp,
) -> Result<Option<HeaderValue>, Failure> {
    if parts.method == Method::CONNECT {
        return Err(refused(405, "CONNECT is not served."));
    }
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if is_too_large(&parts.headers, parts.method.as_str().len() + target) {
        return Err(refused(431, "The head of the request is too large."));
    }
    check_framing(&parts.headers).map_err(Failure::Refused)?;
    check_target(&parts.method, &parts.uri).map_err(Failure::Refused)?;
    if parts.version >= Version::HTTP_11 {
        check_expectation(&parts.headers).map_err(Failure::Refused)?;
    }
    one_host(parts, client.is_secure)?;
    if matches!(parts.method, Method::OPTIONS | Method::TRACE) {
        count_down(&mut parts.headers).map_err(Failure::Refused)?;
    }
    let switch = match parts.version {
        Version::HTTP_11 => crate::domain::headers::upgrade(&parts.headers),
        _ => None,
    };
    let headers = &mut parts.headers;
    let is_continue =
        |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(CONTINUE.as_bytes());
    let asks_first = parts.version == Version::HTTP_11
        && !body.is_none()
        && headers.get(EXPECT).is_some_and(is_continue);
    strip_hop_by_hop(headers);
    drop_aliases(headers);
    plain_length(headers);
    if parts.version == Version::HTTP_2 {
        join_cookies(headers);
    }
    if asks_first {
        headers.insert(EXPECT, HeaderValue::from_static(CONTINUE));
    } else {
        headers.remove(EXPECT);
    }
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    append_forwarded_for(headers, &client.ip);
    headers.insert(X_FORWARDED_PROTO.clone(), client.proto.clone());
    headers.insert(X_FORWARDED_PORT.clone(), client.port.clone());
    headers.insert(X_REQUEST_START.clone(), HeaderValue::from(now.as_millisecond()));
    let mut ids = headers.get_all(&X_REQUEST_ID).iter();
    if !ids.next().is_some_and(|id| is_request_id(id.as_bytes())) || ids.next().is_some() {
        headers.insert(X_REQUEST_ID.clone(), random_id());
    }
    parts.version = Version::HTTP_11;
    Ok(switch)
}

fn refused(status: u16, sentence: &'static str) -> Failure {
    Failure::Refused(Refusal(status, sentence))
}

/// Sees to it that the head names one host, in `Host`, and that the target is a path.
fn one_host(parts: &mut Parts, is_secure: bool) -> Result<(), Failure> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(refused(400, "The request has several Host headers."));
    }
    match parts.uri.authority() {
        // The form for CONNECT; others would go by Host (RFC 9112 §3.2.3).
        Some(_) if parts.uri.scheme().is_none() => {
            return Err(refused(400, "The request's target is not a path."));
        }
        // HTTP/2, or the absolute form: what the target says counts.
        Some(authority) => {
            if parts.version < Version::HTTP_2 {
                let checked = check_absolute(&parts.uri, &parts.headers, is_secure);
                checked.map_err(Failure::Refused)?;
            }
            let host = HeaderValue::from_str(authority.as_str())
                .map_err(|_| refused(400, "The request's host is not one."))?;
            let path = parts.uri.path_and_query().cloned();
            parts.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
            parts.headers.insert(HOST, host);
        }
        None if host.is_none() && parts.version >= Version::HTTP_11 => {
            return Err(refused(400, "The request has no Host header."));
        }
        None if host.is_none() => {
            // What is passed on is of HTTP/1.1, which wants one (RFC 9112 §3.2).
            parts.headers.insert(HOST, HeaderValue::from_static(""));
        }
        None => {}
    }
    Ok(())
}

/// 32 random hex digits.
fn random_id() -> HeaderValue {
    let mut id = String::with_capacity(32);
    let _ = write!(id, "{:032x}", rand::random::<u128>());
    HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

fn route(live: &Live, parts: &Parts) -> Result<Arc<Target>, Failure> {
    let host = parts.headers.get(HOST).map_or(&b""[..], HeaderValue::as_bytes);
    let host: Cow<'_, str> =
        host::canonical(host).ok_or(refused(400, "The request's host is not one."))?;
    let found = live.table().routes.find(&host, parts.uri.path()).cloned();
    let unknown = || if live.knows_routes() { Failure::NoRoute } else { Failure::NotReady };
    found.ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_no_route_leads_there_is_said_only_when_the_routes_are_known() {
        let request = Request::get("/").header(HOST, "a.example").body(()).unwrap();
        let (parts, ()) = request.into_parts();
        let live = Live::default();
        let status = |live| route(live, &parts).unwrap_err().to_response();
        let answer = status(&live);
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["retry-after"]),
            (503, &"5".parse().unwrap())
        );
        live.reached(1);
        assert_eq!(status(&live).status(), 404);
    }
}
