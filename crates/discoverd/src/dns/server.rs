//! Serving DNS.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use daemon::{Lifetime, Sources};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};
use tracing::debug;

use super::Forwarder;
use crate::{
    domain::zone::{Answer, Transport, answer, failure},
    mirror::{Freshness, Mirror},
};

/// Largest UDP query: a query is small.
const UDP_LIMIT: usize = 4096;
/// Queries being forwarded at once; more are not answered, and asked again by who asked.
const FORWARDED_AT_ONCE: usize = 512;
/// Of these, from one source.
const FORWARDED_PER_SOURCE: usize = 64;
/// TCP connections at once.
const CONNECTIONS: usize = 128;
/// Of these, from one source.
const CONNECTIONS_PER_SOURCE: usize = 16;
/// A connection on which nothing happens for so long is closed.
const IDLE: Duration = Duration::from_secs(10);

/// Serves DNS.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    lifetime: Lifetime,
    mirror: Mirror,
    forwarder: Forwarder,
    forwarding: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    forwarded_for: Sources,
    connected: Sources,
}

/// Both sockets of one address.
pub(crate) type Bound = (UdpSocket, TcpListener);

/// Binds both sockets of an address.
pub(crate) async fn bind(addr: SocketAddr) -> io::Result<Bound> {
    let tcp = TcpListener::bind(addr).await?;
    let udp = UdpSocket::bind(tcp.local_addr()?).await?;
    Ok((udp, tcp))
}

impl Server {
    pub(crate) fn new(lifetime: Lifetime, mirror: Mirror, forwarder: Forwarder) -> Self {
        let forwarding = Arc::new(Semaphore::new(FORWARDED_AT_ONCE));
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let forwarded_for = Sources::new(FORWARDED_PER_SOURCE);
        let connected = Sources::new(CONNECTIONS_PER_SOURCE);
        Self { lifetime, mirror, forwarder, forwarding, connections, forwarded_for, connected }
    }

    /// Serves until the daemon stops.
    pub(crate) fn serve(self, (udp, tcp): Bound) -> io::Result<SocketAddr> {
        let addr = tcp.local_addr()?;
        let lifetime = self.lifetime.clone();
        let datagrams = self.clone();
        lifetime.spawn("dns udp", |stop| async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = datagrams.keep_udp(Arc::new(udp)) => {}
            }
        });
        lifetime.spawn("dns tcp", |stop| async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.keep_tcp(tcp) => {}
            }
        });
        Ok(addr)
    }

    fn answer(&self, query: &[u8], transport: Transport) -> Answer {
        let known = self.mirror.freshness() != Freshness::Unknown;
        self.mirror.read(|directory| {
            answer(query, transport, known.then_some(directory), &mut rand::rng())
        })
    }

    async fn keep_udp(&self, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; UDP_LIMIT];
        loop {
            // An error of the socket is about an earlier answer (nobody listens there any more).
            let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
            let query = &buffer[..len];
            match self.answer(query, Transport::Udp) {
                Answer::Reply(reply) => {
                    let _ = socket.try_send_to(&reply, from);
                }
                Answer::Ignore => {}
                Answer::Forward => {
                    let Some(share) = self.forwarded_for.enter(from.ip()) else { continue };
                    let Ok(permit) = self.forwarding.clone().try_acquire_owned() else { continue };
                    let (query, socket) = (query.to_vec(), socket.clone());
                    let forwarder = self.forwarder.clone();
                    self.lifetime.spawn_request(async move {
                        let answer = forwarder.ask(&query, Transport::Udp).await;
                        if let Some(reply) = answer.or_else(|| failure(&query)) {
                            let _ = socket.send_to(&reply, from).await;
                        }
                        drop((share, permit));
                    });
                }
            }
        }
    }

    async fn keep_tcp(&self, listener: TcpListener) {
        loop {
            let Ok(permit) = self.connections.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, from)) => {
                    let Some(share) = self.connected.enter(from.ip()) else { continue };
                    let server = self.clone();
                    self.lifetime.spawn_request(async move {
                        if let Err(err) = server.connection(stream).await {
                            debug!(error = %err, "a DNS connection ended early");
                        }
                        drop((share, permit));
                    });
                }
                // Out of file descriptors, mostly: connections that end make room.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let Some(query) = timeout(IDLE, read_message(&mut stream)).await?? else {
                return Ok(());
            };
            let reply = match self.answer(&query, Transport::Tcp) {
                Answer::Reply(reply) => Some(reply),
                Answer::Ignore => return Ok(()),
                Answer::Forward => {
                    let answer = self.forwarder.ask(&query, Transport::Tcp).await;
                    answer.or_else(|| failure(&query))
                }
            };
            let Some(reply) = reply else { return Ok(()) };
            timeout(IDLE, write_message(&mut stream, &reply)).await??;
        }
    }
}

/// Reads one message of a stream; `None` at its end. At most 64 KiB, as its length is two bytes.
pub(super) async fn read_message(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<Vec<u8>>> {
    let len = match stream.read_u16().await {
        Ok(len) => len,
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(err) => return Err(err),
    };
    let mut message = vec![0; usize::from(len)];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Writes one message to a stream.
pub(super) async fn write_message(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &[u8],
) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let framed = [&len.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await
}
