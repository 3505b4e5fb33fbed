//! Clients that are turned away, because there are too many or one has too many connections.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use daemon::{Lifetime, relay::discard};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::warn;

use crate::gate::FullError;

/// Clients that are told so at once; more are closed without a word.
const TOLD_MAX: usize = 256;
/// Longest time for that.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two lines that say so to the operator.
const WARN_INTERVAL: Duration = Duration::from_secs(10);
/// What they are told, which is short enough for any connection to take at once.
const ANSWER: &str = "HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 81\r\n\
    Retry-After: 5\r\n\
    Connection: close\r\n\r\n\
    503 Service Unavailable\n\nThis router is overloaded. Try again in a little while.\n";

/// Turns clients of a port away.
#[derive(Debug)]
pub(super) struct Refusals {
    room: Arc<Semaphore>,
    lifetime: Lifetime,
    warned: Option<Instant>,
}

impl Refusals {
    /// None yet.
    pub(super) fn new(lifetime: Lifetime) -> Self {
        Self { room: Arc::new(Semaphore::new(TOLD_MAX)), lifetime, warned: None }
    }

    /// Closes a client's connection. It is told why if it speaks HTTP without TLS: a handshake costs what is short.
    pub(super) fn refuse(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        err: FullError,
        is_http: bool,
    ) {
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARN_INTERVAL) {
            self.warned = Some(Instant::now());
            let error = &err as &dyn std::error::Error;
            warn!(client = %peer.ip(), error, "a client was turned away: {err}");
        }
        if is_http && let Ok(room) = self.room.clone().try_acquire_owned() {
            self.lifetime.spawn_request(async move {
                tell(stream).await;
                drop(room);
            });
        }
    }
}

/// What it has sent by then is read: unread, it would cost it the answer.
async fn tell(mut stream: TcpStream) {
    let told = async {
        stream.write_all(ANSWER.as_bytes()).await?;
        stream.shutdown().await?;
        discard(&mut stream).await;
        std::io::Result::Ok(())
    };
    // It may be gone.
    let _ = timeout(TELL_TIMEOUT, told).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_length_is_told_right() {
        let (head, body) = ANSWER.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }
}
