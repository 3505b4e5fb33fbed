//! How a check asks: over a connection of its own, and what counts as no answer.

use std::{error::Error, io, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::sleep};
use tracing::warn;

/// Pause before a check that could not be made is made again.
const PAUSE: Duration = Duration::from_millis(500);

/// Whether a connection failed for want of something on our side, as open files, and not for what it should lead to.
pub(super) fn is_ours(err: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable,
        TimedOut,
    };
    let found = std::iter::successors(Some(err), |&err| err.source())
        .find_map(|err| err.downcast_ref::<io::Error>());
    let theirs = |kind| {
        matches!(
            kind,
            ConnectionAborted
                | ConnectionRefused
                | ConnectionReset
                | HostUnreachable
                | NetworkUnreachable
                | TimedOut
        )
    };
    found.is_some_and(|err| err.raw_os_error().is_some() && !theirs(err.kind()))
}

/// A check that could not be made is made again.
pub(super) async fn unknown(err: &(dyn Error + Send + Sync + 'static)) {
    warn!(error = err as &dyn Error, "a job cannot be checked; trying again");
    sleep(PAUSE).await;
}

/// Asks for a URL over a new connection, which is closed when this is over or given up; `None` if no answer is one.
pub(super) async fn get(stream: TcpStream, url: &str) -> Option<StatusCode> {
    let url = reqwest::Url::parse(url).ok()?;
    let host = url.host_str()?;
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let request = Request::get(format!("{}{query}", url.path()))
        .header(header::HOST, host)
        .header(header::ACCEPT, "*/*")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // It may have ended with the answer.
        _ = connection => answer.await,
    };
    answer.ok().map(|answer| answer.status())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_full_on_our_side_is_no_failed_check() {
        let is_ours = |errno| is_ours(&io::Error::from_raw_os_error(errno));
        // Too many open files, of the process and of the system; no buffers; no free port.
        assert!([24, 23, 105, 99].into_iter().all(is_ours));
        // Refused, reset, no route, timed out.
        assert!(![111, 104, 113, 110].into_iter().any(is_ours));
    }
}
