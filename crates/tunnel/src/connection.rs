//! Connections between hosts.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustix::net::sockopt;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::{
    authority::host_name,
    tls::{self, Identity, Service},
};

/// Longest time until a host has taken a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest time of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection on which nothing comes is asked after so long,
const IDLE: Duration = Duration::from_secs(10);
/// and again after so long,
const PROBE: Duration = Duration::from_secs(3);
/// and is over when so many questions were not answered,
const PROBES: u32 = 3;
/// or when data stays unacknowledged for this time. Not set for flynn-host's API, whose sessions and logs a person may pause.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// There is no connection.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// A certificate or a key cannot be read.
    #[error("a certificate or its key is not what it should be")]
    NotPem,
    /// TLS cannot be used with it.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The id cannot be in a certificate.
    #[error("{0:?} is no host id")]
    BadId(String),
    /// Nobody took the connection.
    #[error("{addr} cannot be reached")]
    Connect {
        /// Where.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The other end is not who it should be, or does not believe us, or is no host.
    #[error("no trusted connection with {addr}")]
    Handshake {
        /// Who.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It asked for nothing we know, or showed no certificate.
    #[error("{addr} {said}")]
    Refused {
        /// Who.
        addr: SocketAddr,
        /// Why.
        said: &'static str,
    },
}

/// A connection of another host.
#[derive(Debug)]
pub struct Accepted {
    /// What it is for.
    pub service: Service,
    /// Who it is. Nobody, if it joins.
    pub id: Option<String>,
    /// The connection.
    pub stream: server::TlsStream<TcpStream>,
}

fn late() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

/// Makes the kernel notice that the other end is gone.
fn watched(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, IDLE)?;
    sockopt::set_tcp_keepintvl(stream, PROBE)?;
    Ok(sockopt::set_tcp_keepcnt(stream, PROBES)?)
}

/// The same while something is on its way. Linux counts also what is not sent because the other end is full (tcp(7),
/// `TCP_USER_TIMEOUT`), so that a paused session or log would be over: for those the kernel's patience has to do.
fn watch_unacknowledged(stream: &TcpStream, service: Service) -> io::Result<()> {
    if service == Service::Host {
        return Ok(());
    }
    let milliseconds = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(stream, milliseconds)?)
}

/// Makes a connection that was taken on the tunnel's port a trusted one.
pub async fn accept(
    stream: TcpStream,
    addr: SocketAddr,
    identity: &Identity,
) -> Result<Accepted, TunnelError> {
    watched(&stream).map_err(|source| TunnelError::Connect { addr, source })?;
    let acceptor = TlsAcceptor::from(identity.server.clone());
    let shaken = timeout(HANDSHAKE, acceptor.accept(stream)).await;
    let stream = shaken
        .unwrap_or_else(|_| Err(late()))
        .map_err(|source| TunnelError::Handshake { addr, source })?;
    let (socket, session) = stream.get_ref();
    let refused = |said| TunnelError::Refused { addr, said };
    let service = session.alpn_protocol().and_then(Service::of);
    let service = service.ok_or_else(|| refused("asked for no service"))?;
    let id = session.peer_certificates().and_then(tls::shown_id);
    if id.is_none() && service != Service::Join {
        return Err(refused("showed no certificate of a host"));
    }
    watch_unacknowledged(socket, service)
        .map_err(|source| TunnelError::Connect { addr, source })?;
    Ok(Accepted { service, id, stream })
}

/// Connects to a service of one host.
pub async fn dial(
    addr: SocketAddr,
    id: &str,
    service: Service,
    identity: &Identity,
) -> Result<client::TlsStream<TcpStream>, TunnelError> {
    let name =
        ServerName::try_from(host_name(id)).map_err(|_| TunnelError::BadId(id.to_owned()))?;
    connect(addr, name, service, identity.client(service)).await
}

/// Connects to a host of the cluster whose CA has that fingerprint, to join it.
pub async fn dial_unknown(
    addr: SocketAddr,
    fingerprint: &str,
) -> Result<client::TlsStream<TcpStream>, TunnelError> {
    let name = ServerName::try_from(host_name("any")).map_err(|_| TunnelError::NotPem)?;
    connect(addr, name, Service::Join, tls::joining(fingerprint)?).await
}

async fn connect(
    addr: SocketAddr,
    name: ServerName<'static>,
    service: Service,
    config: ClientConfig,
) -> Result<client::TlsStream<TcpStream>, TunnelError> {
    let connected = timeout(CONNECT, TcpStream::connect(addr)).await;
    let stream = connected
        .unwrap_or_else(|_| Err(late()))
        .and_then(|stream| {
            watched(&stream)?;
            watch_unacknowledged(&stream, service)?;
            Ok(stream)
        })
        .map_err(|source| TunnelError::Connect { addr, source })?;
    let connector = TlsConnector::from(Arc::new(config));
    let shaken = timeout(HANDSHAKE, connector.connect(name, stream)).await;
    shaken.unwrap_or_else(|_| Err(late())).map_err(|source| TunnelError::Handshake { addr, source })
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::Authority;

    fn identity(ca: &Authority, id: &str) -> Identity {
        Identity::new(&ca.issue(id, [127, 0, 0, 1].into()).unwrap()).unwrap()
    }

    /// A host `b` of that CA, which says who came and for what.
    #[expect(clippy::disallowed_methods, reason = "a test's server ends with its runtime")]
    async fn host(ca: &Authority) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let identity = identity(ca, "b");
        tokio::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let Ok(mut accepted) = accept(stream, peer, &identity).await else { continue };
                let said = format!("{:?} {:?}", accepted.service, accepted.id);
                let _ = accepted.stream.write_all(said.as_bytes()).await;
                let _ = accepted.stream.shutdown().await;
            }
        });
        addr
    }

    async fn said(stream: Result<client::TlsStream<TcpStream>, TunnelError>) -> String {
        let mut text = String::new();
        match stream {
            Ok(mut stream) => match stream.read_to_string(&mut text).await {
                Ok(_) => text,
                Err(err) => format!("closed: {err}"),
            },
            Err(err) => format!("none: {err}"),
        }
    }

    #[tokio::test]
    async fn a_host_knows_who_comes_and_for_what_and_is_the_one_meant() {
        let ca = Authority::make().unwrap();
        let ca = Authority::read(ca.cert(), &ca.key()).unwrap();
        let addr = host(&ca).await;
        let a = identity(&ca, "a");
        assert_eq!(said(dial(addr, "b", Service::Etcd, &a).await).await, "Etcd Some(\"a\")");
        let meant_another = said(dial(addr, "c", Service::Etcd, &a).await).await;
        assert!(meant_another.starts_with("none"), "{meant_another}");
    }

    #[tokio::test]
    async fn what_a_person_may_pause_is_not_over_because_the_other_end_is_full() {
        let ca = Authority::make().unwrap();
        let (a, b) = (identity(&ca, "a"), identity(&ca, "b"));
        for service in [Service::Host, Service::Etcd] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let taken = async {
                let (stream, peer) = listener.accept().await.unwrap();
                accept(stream, peer, &b).await.unwrap().stream
            };
            let (dialled, taken) = tokio::join!(dial(addr, "b", service, &a), taken);
            let dialled = dialled.unwrap();
            for socket in [dialled.get_ref().0, taken.get_ref().0] {
                assert!(sockopt::socket_keepalive(socket).unwrap());
                let is_limited = sockopt::tcp_user_timeout(socket).unwrap() > 0;
                assert_eq!(is_limited, service == Service::Etcd);
            }
        }
    }

    #[tokio::test]
    async fn a_stranger_reaches_nothing_but_joining() {
        let (ca, other) = (Authority::make().unwrap(), Authority::make().unwrap());
        let addr = host(&ca).await;
        let stranger = identity(&other, "a");
        let refused = said(dial(addr, "b", Service::Host, &stranger).await).await;
        assert!(refused.starts_with("none") || refused.starts_with("closed"), "{refused}");
        let pinned = ca.fingerprint().unwrap();
        assert_eq!(said(dial_unknown(addr, &pinned).await).await, "Join None");
        let wrong = said(dial_unknown(addr, &other.fingerprint().unwrap()).await).await;
        assert!(wrong.starts_with("none"), "{wrong}");
    }

    #[tokio::test]
    async fn without_a_certificate_only_joining_is_answered() {
        let ca = Authority::make().unwrap();
        let addr = host(&ca).await;
        let mut config = tls::joining(&ca.fingerprint().unwrap()).unwrap();
        config.alpn_protocols = vec![Service::Host.alpn().to_vec()];
        let name = ServerName::try_from("any.host.flynn").unwrap();
        let stream = connect(addr, name, Service::Host, config).await;
        let refused = said(stream).await;
        assert!(!refused.contains("Host"), "{refused}");
    }
}
