//! Connections that must begin to speak.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// What a client of HTTP/2 says first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client's connection. Reading it fails if the client has not said in time which HTTP it speaks: hyper waits for that
/// without a limit, and its clocks run only after.
#[derive(Debug)]
pub(crate) struct Opening {
    stream: TcpStream,
    /// While it may be either HTTP.
    wait: Option<Wait>,
}

#[derive(Debug)]
struct Wait {
    /// Bytes of the preface of HTTP/2 that have come.
    read: usize,
    limit: Pin<Box<Sleep>>,
}

impl Opening {
    /// One that has just been accepted.
    pub(crate) fn new(stream: TcpStream, limit: Duration) -> Self {
        Self { stream, wait: Some(Wait { read: 0, limit: Box::pin(sleep(limit)) }) }
    }

    /// The connection itself.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn note(&mut self, came: &[u8]) {
        let Some(wait) = &mut self.wait else { return };
        let is_open = PREFACE[wait.read..].starts_with(came);
        wait.read += came.len();
        if !is_open || wait.read == PREFACE.len() {
            self.wait = None;
        }
    }
}

impl AsyncRead for Opening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let known = buf.filled().len();
        match (Pin::new(&mut self.stream).poll_read(cx, buf), &mut self.wait) {
            (Poll::Pending, Some(wait)) => {
                ready!(wait.limit.as_mut().poll(cx));
                let message = "the client did not say in time which HTTP it speaks";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
            }
            (read, _) => {
                self.note(&buf.filled()[known..]);
                read
            }
        }
    }
}

impl AsyncWrite for Opening {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::timeout,
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::serve::connection;

    const HEAD_TIMEOUT: Duration = Duration::from_millis(200);

    /// A client that has said this, and the server of its connection.
    async fn having_said(said: &[u8]) -> (TcpStream, impl Future<Output = ()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(said).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let router = axum::Router::new();
        (client, connection(stream, router, CancellationToken::new(), HEAD_TIMEOUT))
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_or_little_is_left() {
        for said in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM", b"GET / HT"] {
            let (_client, served) = having_said(said).await;
            let served = timeout(testkit::LIMIT, served).await;
            assert!(served.is_ok(), "{said:?} holds a connection");
        }
    }

    #[tokio::test]
    async fn a_client_that_begins_in_time_is_served() {
        let one = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let two = [&PREFACE[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        for (said, answered) in [(&one[..], &b"HTTP/1.1 404"[..]), (&two, &[0, 0])] {
            let (mut client, served) = having_said(said).await;
            let mut heard = vec![0; answered.len()];
            let served = async {
                served.await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = served => {}
                read = client.read_exact(&mut heard) => drop(read.unwrap()),
            }
            assert_eq!(heard, answered);
        }
    }
}
