//! Serving HTTP.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use api::error::ErrorCode;
use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use http::{HeaderValue, StatusCode};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info_span};

use crate::{ApiError, Lifetime, Sources, opening::Opening, sockets::detect_lost_peers};

/// A client has this long to send a request's head, and before the first to say which HTTP it speaks.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections at once: what a process has of files, and some for its other work.
const CONNECTIONS: usize = 16_384;
/// Connections at once from one source. A router brings all that come from outside.
const CONNECTIONS_PER_SOURCE: usize = 2048;

/// Longest sentence of axum's own.
const REFUSAL_LEN_MAX: usize = 4096;

impl Lifetime {
    /// Serves a router until the daemon stops; then connections finish the request they are in.
    ///
    /// Adds what every server has: `GET /ping`, `GET /.well-known/status`, a request id and 404 as JSON.
    pub fn serve(&self, listener: TcpListener, router: Router) {
        self.serve_with_status(listener, router, get(status));
    }

    /// The same for a server that finds out whether it can do its work: see [`crate::status::status`].
    pub fn serve_with_status(&self, listener: TcpListener, router: Router, status: MethodRouter) {
        self.serve_with_ping(listener, router, get(async || ""), status);
    }

    /// The same on a socket that another process may be serving: only while `open` says so. What is connected when it says
    /// otherwise finishes the request it is in. When there is nobody to say it, it stays as it was.
    pub fn serve_while_open(
        &self,
        listener: Arc<TcpListener>,
        open: watch::Receiver<bool>,
        router: Router,
        status: MethodRouter,
    ) {
        self.serve_on(listener, Some(open), router, get(async || ""), status);
    }

    /// The same for one whose `GET /ping` must find out something, too.
    pub fn serve_with_ping(
        &self,
        listener: TcpListener,
        router: Router,
        ping: MethodRouter,
        status: MethodRouter,
    ) {
        self.serve_on(Arc::new(listener), None, router, ping, status);
    }

    fn serve_on(
        &self,
        listener: Arc<TcpListener>,
        open: Option<watch::Receiver<bool>>,
        router: Router,
        ping: MethodRouter,
        status: MethodRouter,
    ) {
        let router = router
            .route("/ping", ping)
            .route("/.well-known/status", status)
            .fallback(async || ApiError::not_found("there is no such path").into_response())
            .method_not_allowed_fallback(no_such_method)
            .layer(middleware::from_fn(identify));
        let _ = detect_lost_peers(&listener);
        let lifetime = self.clone();
        self.spawn("accept", move |stop| async move {
            let Some(mut open) = open else {
                return accept(&listener, &router, &lifetime, &stop).await;
            };
            while stop.run_until_cancelled(until(&mut open, true)).await.is_some() {
                let term = stop.child_token();
                tokio::select! {
                    () = accept(&listener, &router, &lifetime, &term) => {}
                    () = until(&mut open, false) => term.cancel(),
                }
            }
        });
    }
}

async fn until(open: &mut watch::Receiver<bool>, wanted: bool) {
    if open.wait_for(|open| *open == wanted).await.is_err() {
        std::future::pending().await
    }
}

/// Answers a method that a path does not take. The body is an error as any other; the header `Allow` names the methods.
///
/// Every server has it; a router that puts a layer around it has to name it itself.
pub async fn no_such_method(method: http::Method) -> Response {
    let message = format!("this path does not take {method}; the header Allow says what it takes");
    let ApiError(body) = ApiError::new(ErrorCode::ValidationError, message);
    (StatusCode::METHOD_NOT_ALLOWED, axum::Json(body)).into_response()
}

async fn status() -> axum::Json<serde_json::Value> {
    let version = env!("CARGO_PKG_VERSION");
    axum::Json(serde_json::json!({ "data": { "status": "healthy", "version": version } }))
}

async fn accept(
    listener: &TcpListener,
    router: &Router,
    lifetime: &Lifetime,
    stop: &CancellationToken,
) {
    let (room, sources) =
        (Arc::new(Semaphore::new(CONNECTIONS)), Sources::new(CONNECTIONS_PER_SOURCE));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = one(listener, &room) => accepted,
        };
        match accepted {
            Ok((stream, peer, permit)) => {
                let Some(share) = sources.enter(peer.ip()) else {
                    debug!(%peer, "{} has as many connections as it may have", peer.ip());
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let served = connection(stream, router.clone(), stop.clone(), HEAD_TIMEOUT);
                lifetime.spawn_drained(async move {
                    served.await;
                    drop((share, permit));
                });
            }
            // Out of file descriptors, mostly: connections that end make room.
            Err(err) => {
                debug!(error = %err, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// A connection, once there is room for one more.
async fn one(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, permit))
}

/// Serves a connection to its end.
pub(crate) async fn connection(
    stream: TcpStream,
    router: Router,
    stop: CancellationToken,
    head_timeout: Duration,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(head_timeout);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(20)));
    let service = TowerToHyperService::new(router);
    let stream = TokioIo::new(Opening::new(stream, head_timeout));
    let connection = builder.serve_connection_with_upgrades(stream, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(err) = ended {
        debug!(error = %err, "a connection ended early");
    }
}

/// Gives every request an id, in its span and in its answer.
async fn identify(request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get("x-request-id")
        .filter(|id| id.to_str().is_ok_and(acceptable))
        .cloned()
        .unwrap_or_else(|| {
            let id = uuid::Uuid::new_v4().simple().to_string();
            HeaderValue::from_str(&id).expect("hex digits are a header value")
        });
    let span = info_span!(
        "request",
        request.id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        path = request.uri().path(),
    );
    let mut response = worded(next.run(request).instrument(span).await).await;
    response.headers_mut().insert("x-request-id", id);
    response
}

/// What axum itself refuses (a path that is no UTF-8, mostly) as an error as any other.
async fn worded(response: Response) -> Response {
    let is_text = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/plain");
    let kind = response.headers().get(http::header::CONTENT_TYPE);
    if response.status() != StatusCode::BAD_REQUEST || !kind.is_some_and(is_text) {
        return response;
    }
    let text =
        axum::body::to_bytes(response.into_body(), REFUSAL_LEN_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    ApiError::new(ErrorCode::ValidationError, text).into_response()
}

fn acceptable(id: &str) -> bool {
    (20..=200).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=-".contains(&b))
}
