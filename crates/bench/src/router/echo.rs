//! Websockets, as far as a proxy sees them: a switch of protocols, and short messages that come back.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, ensure};
use daemon::Lifetime;
use futures_util::future::try_join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, split},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::{client::connect, load::Load, world::ECHO};
use crate::figure::quantile;

/// A masked frame of 32 bytes of text.
const FRAME: &[u8; 38] = b"\x81\xa0\x00\x00\x00\x00a message of thirty-two bytes...";

const ASKED: &str = "GET / HTTP/1.1\r\nHost: @\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                          Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A backend that switches and echoes.
pub(super) struct Echo {
    port: u16,
    _lifetime: Lifetime,
}

impl Echo {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listening")?;
        let port = listener.local_addr()?.port();
        let lifetime = Lifetime::default();
        let connections = lifetime.clone();
        lifetime.spawn("echo", move |stop| async move {
            let accept = async {
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn_request(echo(stream));
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = accept => {}
            }
        });
        Ok(Self { port, _lifetime: lifetime })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

async fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    if head(&mut stream).await.is_ok() && stream.write_all(SWITCHED).await.is_ok() {
        let (mut from, mut to) = split(stream);
        let _ = copy(&mut from, &mut to).await;
    }
}

/// Reads a head; nothing follows it before it is answered.
async fn head(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut head = Vec::with_capacity(1024);
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut head).await? > 0, "a proxy closed");
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Sends messages on a number of connections at once; each connection sends the next one when the last came back.
pub(super) async fn talk(port: u16, connections: usize, time: Duration) -> anyhow::Result<Load> {
    let streams = try_join_all((0..connections).map(|_| open(port))).await?;
    let began = Instant::now();
    let talks = streams.into_iter().map(|stream| exchange(stream, began + time));
    let mut times = try_join_all(talks).await?.concat();
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    let count = times.len();
    let quantiles = [0.5, 0.99, 0.999].map(|share| quantile(&mut times, share));
    Ok(Load { requests: count as f64, rate, quantiles, failed: 0 })
}

async fn open(port: u16) -> anyhow::Result<TcpStream> {
    let mut stream = connect(port).await?;
    stream.set_nodelay(true)?;
    stream.write_all(ASKED.replace('@', ECHO).as_bytes()).await?;
    let answer = head(&mut stream).await?;
    ensure!(answer.starts_with("HTTP/1.1 101 "), "no switch: {answer}");
    Ok(stream)
}

/// Milliseconds of each exchange.
async fn exchange(mut stream: TcpStream, end: Instant) -> anyhow::Result<Vec<f64>> {
    let (mut times, mut echoed) = (Vec::new(), *FRAME);
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok(times);
        }
        stream.write_all(FRAME).await?;
        stream.read_exact(&mut echoed).await?;
        ensure!(echoed == *FRAME, "a message came back as another");
        times.push(sent.elapsed().as_secs_f64() * 1e3);
    }
}
