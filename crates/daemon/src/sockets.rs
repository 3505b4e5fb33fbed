//! How a daemon treats its sockets.

use std::{os::fd::AsFd, time::Duration};

use rustix::{
    io,
    net::sockopt,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tracing::warn;

/// A connection on which nothing comes is probed after this time, by the kernel (tcp(7), `TCP_KEEPIDLE`),
const KEEPALIVE_DELAY: Duration = Duration::from_secs(30);
/// and again after this,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// and is lost after this many probes that were not answered.
const KEEPALIVE_PROBES: u32 = 3;

/// Makes the kernel notice within a minute that the other end of a quiet connection has lost its power or its network:
/// otherwise a session or a build is kept for it for ever. Given a listener, it holds for every connection it takes.
///
/// A peer that only stops reading is not lost. That is why `TCP_USER_TIMEOUT` is not used: with it Linux also ends
/// connections that cannot send because the other end is full.
///
/// # Errors
/// When it is no TCP socket.
pub fn detect_lost_peers(socket: impl AsFd) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_DELAY)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)
}

/// Lets the process have as many open files, and so connections, as it may: many a shell and service manager begins with 1024.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(err) = setrlimit(Resource::Nofile, all) {
        warn!(error = %err, "the limit of open files could not be raised");
    }
}

#[cfg(test)]
mod tests {
    use testkit::{sockets_to, wait_until};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::Lifetime;

    #[tokio::test]
    async fn a_server_notices_clients_that_vanish() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        Lifetime::default().serve(listener, axum::Router::new());
        let client = TcpStream::connect(addr).await.unwrap();
        let at = client.local_addr().unwrap();
        let taken = wait_until("the server to take the connection", async || {
            sockets_to(at).pop().ok_or("it has not")
        })
        .await;
        assert!(sockopt::socket_keepalive(&taken).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&taken).unwrap(), KEEPALIVE_DELAY);
        assert_eq!(sockopt::tcp_keepcnt(&taken).unwrap(), KEEPALIVE_PROBES);
    }
}
