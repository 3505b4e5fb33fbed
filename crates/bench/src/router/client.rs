//! A client of a proxy that does one thing at a time.

use std::net::Ipv4Addr;

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Connects to a port of this machine.
pub(super) async fn connect(port: u16) -> anyhow::Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.context("connecting to a proxy")
}

/// The answer to a request on a connection of its own.
pub(super) async fn get(port: u16, host: &str) -> anyhow::Result<String> {
    ask(&mut connect(port).await?, host).await
}

/// The answer, whose body is short, to a request on a connection that goes on.
pub(super) async fn ask(stream: &mut TcpStream, host: &str) -> anyhow::Result<String> {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            bail!("a proxy closed: {}", String::from_utf8_lossy(&answer));
        }
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let mut lines = head.lines().map(str::to_ascii_lowercase);
        let length = lines.find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Ok(text.into_owned());
        }
    }
}
