//! Requests on the engine's socket that bollard cannot make: attaching without guessing where frames begin, and reading
//! a log with a bound.

use std::{io, path::Path, pin::pin, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};

/// Longest time until the engine answers.
const ANSWER: Duration = Duration::from_secs(30);
/// Longest time to read a whole log.
const READ: Duration = Duration::from_secs(120);

/// The engine did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RawError {
    /// The socket.
    #[error("the engine's socket cannot be used")]
    Socket(#[source] io::Error),
    /// The conversation.
    #[error("the engine broke off the conversation")]
    Http(#[source] hyper::Error),
    /// It refused.
    #[error("the engine answered {status}: {message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What it said.
        message: String,
    },
    /// It was silent.
    #[error("the engine did not answer in time")]
    Silent,
    /// The answer is larger than was asked for.
    #[error("the engine's answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// A container's streams.
pub(crate) type Attached = TokioIo<Upgraded>;

/// Attaches to a container's streams: framed as `domain::mux` reads, or raw with a terminal.
pub(crate) async fn attach(
    socket: &Path,
    container: &str,
    stdin: bool,
) -> Result<Attached, RawError> {
    let stdin = u8::from(stdin);
    let path = format!("/containers/{container}/attach?stream=1&stdin={stdin}&stdout=1&stderr=1");
    let request = Request::post(path)
        .header(header::HOST, "docker")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "tcp");
    let exchange = async {
        let response = send(socket, request, |response| async {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return hyper::upgrade::on(response).await.map_err(RawError::Http);
            }
            Err(refusal(response).await)
        });
        response.await.map(TokioIo::new)
    };
    timeout(ANSWER, exchange).await.map_err(|_| RawError::Silent)?
}

/// A container's log of the engine since a second, with timestamps, at most `limit` bytes.
pub(crate) async fn log(
    socket: &Path,
    container: &str,
    since: i64,
    limit: usize,
) -> Result<Bytes, RawError> {
    let since = since.max(0);
    let path = format!("/containers/{container}/logs?stdout=1&stderr=1&timestamps=1&since={since}");
    let request = Request::builder().method(Method::GET).uri(path).header(header::HOST, "docker");
    let exchange = send(socket, request, |response| async move {
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        let body = Limited::new(response.into_body(), limit).collect().await;
        body.map(|body| body.to_bytes()).map_err(|_| RawError::TooLarge(limit))
    });
    timeout(READ, exchange).await.map_err(|_| RawError::Silent)?
}

async fn refusal(response: hyper::Response<Incoming>) -> RawError {
    let status = response.status();
    let body = Limited::new(response.into_body(), 4096).collect().await;
    let text = body.map(|body| body.to_bytes()).unwrap_or_default();
    RawError::Refused { status, message: String::from_utf8_lossy(&text).trim().into() }
}

/// One request on a connection of its own, which is driven while `read` works on the answer.
async fn send<T, F>(
    socket: &Path,
    request: http::request::Builder,
    read: impl FnOnce(hyper::Response<Incoming>) -> F,
) -> Result<T, RawError>
where
    F: Future<Output = Result<T, RawError>>,
{
    let stream = UnixStream::connect(socket).await.map_err(RawError::Socket)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(RawError::Http)?;
    let request = request.body(Empty::<Bytes>::new()).expect("the request is well formed");
    let mut exchange = pin!(async move {
        let response = sender.send_request(request).await.map_err(RawError::Http)?;
        read(response).await
    });
    let mut connection = pin!(connection.with_upgrades());
    let mut open = true;
    loop {
        tokio::select! {
            done = &mut exchange => return done,
            ended = &mut connection, if open => {
                open = false;
                ended.map_err(RawError::Http)?;
            }
        }
    }
}
