//! Clients' connections.

use std::{
    convert::Infallible,
    error::Error,
    future::{Future, pending, poll_fn},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use daemon::{line::Line, relay::until_lost, sockets::detect_lost_peers};
use http::{HeaderValue, Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::sockopt::set_ipv6_v6only;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Client,
    activity::Activity,
    last::ErrorLast,
    lent::{Resettable, lend},
    refuse::Refusals,
    request::{Context, serve},
};
use crate::{
    backend::{is_exhaustion, tell_of_exhaustion},
    domain::headers::{HEAD_MAX, HEADERS_MAX},
    handover::Entrance,
    live::Live,
};

/// A client has this long for the head of a request, and for the time between two; on HTTP/2, between the end of one and
/// the beginning of the next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// One that is told to go, having been idle for that time, has this long to do so.
const PARTING_DELAY: Duration = Duration::from_secs(10);
/// HTTP/1: from when the router stops until a client that asks for nothing is let go: what it asks for in the very moment
/// its connection is closed would be lost. An answer in between says that the connection ends with it.
const STOP_DELAY: Duration = Duration::from_secs(2);
/// A client has this long for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;
/// A port held by a predecessor that is ending is tried again so often.
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2: requests at once on a connection.
const STREAMS: u32 = 100;
/// HTTP/2: how much of an answer is held for a client that does not read it, besides the piece that comes next.
const SEND_BUFFER: usize = 32 << 10;
/// HTTP/2: how much of a request's body may be on its way before its backend takes it.
const STREAM_WINDOW: u32 = 1 << 20;
/// HTTP/2: the same for all requests of a connection. h2 ends one on which many small pieces wait; how many is told from
/// this, and is enough for a request that fills its window with pieces of 52 bytes.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// A bound port.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: Arc<TcpListener>,
    addr: SocketAddr,
}

impl Listener {
    /// Binds a port on all addresses.
    pub(crate) fn bind(port: u16) -> io::Result<Self> {
        let everywhere = |socket: TcpSocket, addr: SocketAddr| {
            socket.set_reuseaddr(true)?;
            socket.bind(addr)?;
            socket.listen(BACKLOG)
        };
        let six = TcpSocket::new_v6().and_then(|socket| {
            // Whatever the machine does by itself (net.ipv6.bindv6only).
            set_ipv6_v6only(&socket, false)?;
            everywhere(socket, (Ipv6Addr::UNSPECIFIED, port).into())
        });
        let listener = match six {
            // Without IPv6 on this machine.
            Err(err)
                if err.kind() != io::ErrorKind::AddrInUse
                    && err.kind() != io::ErrorKind::PermissionDenied =>
            {
                everywhere(TcpSocket::new_v4()?, (Ipv4Addr::UNSPECIFIED, port).into())?
            }
            other => other?,
        };
        Self::of(listener)
    }

    /// One that is bound.
    pub(crate) fn of(listener: TcpListener) -> io::Result<Self> {
        let _ = detect_lost_peers(&listener);
        let addr = listener.local_addr()?;
        Ok(Self { listener: Arc::new(listener), addr })
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> Arc<TcpListener> {
        self.listener.clone()
    }

    /// Binds a port on all addresses, waiting for a predecessor to let go of it.
    pub(crate) async fn bind_patiently(port: u16, patience: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + patience;
        let mut told = false;
        loop {
            match Self::bind(port) {
                Err(err) if err.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                    if !std::mem::replace(&mut told, true) {
                        warn!(port, "port {port} is in use; waiting for it");
                    }
                    sleep(BIND_PAUSE).await;
                }
                bound => return bound,
            }
        }
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection. Never fails: what cannot be accepted now is accepted later.
    pub(crate) async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    return (stream, peer);
                }
                // Out of file descriptors, mostly: connections that end make room.
                Err(err) => {
                    match is_exhaustion(&err) {
                        true => tell_of_exhaustion(&err),
                        false => debug!(error = %err, "a connection could not be accepted"),
                    }
                    sleep(BIND_PAUSE).await;
                }
            }
        }
    }
}

/// Serves the clients of a port until the daemon stops.
pub(crate) async fn accept_http(
    listener: Listener,
    mut entrance: Entrance,
    tls: Option<TlsAcceptor>,
    live: Arc<Live>,
    lifetime: daemon::Lifetime,
    stop: CancellationToken,
) {
    let port = HeaderValue::from(listener.addr().port());
    let mut refusals = Refusals::new(lifetime.clone());
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = entrance.accept(&listener) => accepted,
        };
        let seat = match live.clients.enter(peer.ip()) {
            Ok(seat) => seat,
            Err(err) => {
                refusals.refuse(stream, peer, err, tls.is_none());
                continue;
            }
        };
        let client = Client::new(peer.ip(), tls.is_some(), port.clone());
        let (live, line) = (live.clone(), Line::of(&stream));
        let context = Context::new(live, client, line, lifetime.clone(), Some(seat));
        let context = Arc::new(context);
        match tls.clone() {
            None => lifetime.spawn_drained(one(stream, context)),
            Some(tls) => lifetime.spawn_drained(secure(tls, stream, context)),
        }
    }
    live.stop();
}

async fn secure(tls: TlsAcceptor, stream: TcpStream, context: Arc<Context>) {
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            two(stream, context).await;
        }
        Ok(Ok(stream)) => one(stream, context).await,
        failed => {
            context.live.meters.unsecured.fetch_add(1, Relaxed);
            match failed {
                Ok(Err(err)) => debug!(error = %err, "a TLS handshake failed"),
                _ => debug!("a TLS handshake took too long"),
            }
        }
    }
}

/// A connection of HTTP/1.
async fn one<S>(stream: S, context: Arc<Context>)
where
    S: AsyncRead + AsyncWrite + Resettable + Send + Unpin + 'static,
{
    let shared = context.clone();
    let answer = move |request| serve(shared.clone(), request);
    serve_one(stream, &context.live, context.line, answer).await;
}

/// The same, with what answers the requests.
async fn serve_one<S, A, B>(
    stream: S,
    live: &Live,
    line: Option<Line>,
    answer: impl Fn(Request<Incoming>) -> A,
) where
    S: AsyncRead + AsyncWrite + Resettable + Send + Unpin + 'static,
    A: Future<Output = Result<Response<B>, Infallible>>,
    B: Body<Data = Bytes, Error: Error + Send + Sync + Unpin> + Unpin + 'static,
{
    let (stream, owner) = lend(stream);
    let written = stream.written().clone();
    let service = service_fn(move |request| {
        let (answer, written) = (answer(request), written.clone());
        async { answer.await.map(|answer| answer.map(|body| ErrorLast::new(body, Some(written)))) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // It has a clock of its own.
    let idle = pending();
    let finish =
        |connection: Pin<&mut _>| http1::UpgradeableConnection::graceful_shutdown(connection);
    let is_orderly = until_stop(connection, live, STOP_DELAY, idle, finish).await;
    owner.part(line, is_orderly).await;
}

/// A connection of HTTP/2.
async fn two<S>(stream: S, context: Arc<Context>)
where
    S: AsyncRead + AsyncWrite + Resettable + Send + Unpin + 'static,
{
    let shared = context.clone();
    let (live, line) = (&context.live, context.line);
    let served = serve_two(stream, live, line, move |request| serve(shared.clone(), request));
    tokio::select! {
        () = served => {}
        () = until_lost(context.line) => debug!("a client's connection ended: it has vanished"),
    }
}

/// The same, with what answers the requests.
///
/// It asks no client whether it is there: one that pauses in reading an answer reads no such question either, and would be
/// cut off. The kernel finds those that are gone, and one that asks for nothing is let go.
async fn serve_two<S, A, B>(
    stream: S,
    live: &Live,
    line: Option<Line>,
    answer: impl Fn(Request<Incoming>) -> A,
) where
    S: AsyncRead + AsyncWrite + Resettable + Send + Unpin + 'static,
    A: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data = Bytes, Error: Error + Send + Sync + Unpin> + Send + Unpin + 'static,
{
    let activity = Activity::default();
    let under_way = activity.clone();
    let service = service_fn(move |request| {
        let (answer, under_way) = (answer(request), under_way.begin());
        let track = |body| under_way.track(ErrorLast::new(body, None));
        async { answer.await.map(|answer| answer.map(track)) }
    });
    let (stream, owner) = lend(stream);
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_MAX as u32)
        .serve_connection(TokioIo::new(stream), service);
    let idle = activity.until_idle(HEAD_TIMEOUT, line);
    let finish = |connection: Pin<&mut _>| http2::Connection::graceful_shutdown(connection);
    let served = until_stop(connection, live, Duration::ZERO, idle, finish);
    let ignored = async {
        activity.until_idle(HEAD_TIMEOUT, line).await;
        activity.until_idle(PARTING_DELAY, line).await;
    };
    let is_orderly = tokio::select! {
        is_orderly = served => is_orderly,
        // It has not even begun to speak HTTP/2, or does not answer.
        () = ignored => {
            debug!("a client's connection ended: it did nothing");
            true
        }
    };
    owner.part(line, is_orderly).await;
}

/// Runs a connection; this long after the daemon stops, or when the connection is idle for long, it ends after the requests
/// it is in. Whether it ended in order.
async fn until_stop<C>(
    connection: C,
    live: &Live,
    delay: Duration,
    idle: impl Future<Output = ()>,
    finish: impl Fn(Pin<&mut C>),
) -> bool
where
    C: Future<Output = hyper::Result<()>>,
{
    let (mut connection, mut idle) = (pin!(connection), pin!(idle));
    let stopped = live.stopped();
    let mut leaving = pin!(async {
        if !live.is_stopping() {
            stopped.await;
        }
        sleep(delay).await;
    });
    let (mut waiting, mut told) = (false, false);
    let ended = poll_fn(|cx| {
        // Before that it is polled once, to be woken: it takes a lock that all connections share.
        let is_due = !std::mem::replace(&mut waiting, true) || live.is_stopping();
        let leaves = !told && is_due && leaving.as_mut().poll(cx).is_ready();
        if !told && (leaves || idle.as_mut().poll(cx).is_ready()) {
            told = true;
            finish(connection.as_mut());
        }
        connection.as_mut().poll(cx)
    })
    .await;
    let Err(err) = ended else { return true };
    debug!(error = %err, "a client's connection ended early");
    if err.is_parse() {
        live.meters.malformed.fetch_add(1, Relaxed);
    }
    // One that sends what is not HTTP has had its answer, and one that asks for nothing more waits for none.
    err.is_parse() || err.is_timeout()
}

#[cfg(test)]
mod tests;
