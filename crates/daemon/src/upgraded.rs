//! Connections of clients that speak something else than HTTP from now on.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::{rt::TokioIo, server::conn::auto::upgrade::downcast};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{line::Line, opening::Opening};

/// A client's connection after its upgrade: hyper hides what it is.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    /// What came together with the request.
    unread: Bytes,
}

impl Client {
    /// The connection itself.
    ///
    /// # Errors
    /// When [`crate::Lifetime::serve`] did not take it.
    pub fn new(upgraded: Upgraded) -> io::Result<Self> {
        let parts = downcast::<TokioIo<Opening>>(upgraded)
            .map_err(|_| io::Error::other("the connection is not one of this server"))?;
        Ok(Self { stream: parts.io.into_inner().into_stream(), unread: parts.read_buf })
    }

    /// What the kernel knows it by.
    pub fn line(&self) -> Option<Line> {
        Line::of(&self.stream)
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let len = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
