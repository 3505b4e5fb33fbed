//! Asking the servers of the host.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::server::{read_message, write_message};
use crate::domain::zone::Transport;

/// Longest wait for one server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Most servers asked.
const SERVERS: usize = 3;
/// How long the list of servers is kept: it changes with the network the host is in.
const LIST_AGE: Duration = Duration::from_secs(5);
/// Largest UDP answer.
const UDP_LIMIT: usize = 4096;

/// The list of servers, and when it was read.
type Read = (Instant, Vec<SocketAddr>);

/// Forwards queries. Clones share the list of servers.
#[derive(Debug, Clone)]
pub(crate) struct Forwarder {
    file: PathBuf,
    own: Vec<SocketAddr>,
    list: Arc<Mutex<Option<Read>>>,
}

impl Forwarder {
    /// Asks the servers that `file` names, but never ourselves.
    pub(crate) fn new(file: PathBuf, own: &[SocketAddr]) -> Self {
        Self { file, own: own.into(), list: Arc::default() }
    }

    /// The answer of the first server that has one.
    pub(crate) async fn ask(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        for server in self.servers() {
            let asked = async {
                match transport {
                    Transport::Udp => ask_udp(server, query).await,
                    Transport::Tcp => ask_tcp(server, query).await,
                }
            };
            match timeout(ANSWER_TIMEOUT, asked).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(err)) => tracing::debug!(%server, error = %err, "a name server failed"),
                Err(_) => tracing::debug!(%server, "a name server did not answer"),
            }
        }
        None
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, servers)) = list.as_ref().filter(|(read, _)| read.elapsed() < LIST_AGE) {
            return servers.clone();
        }
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let mut servers = name_servers(&text);
        servers.retain(|server| !self.own.contains(server));
        *list = Some((Instant::now(), servers.clone()));
        servers
    }
}

/// The servers a resolv.conf names. A port may be given as `[ip]:port`.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let ("nameserver", Some(server)) = (words.next()?, words.next()) else { return None };
            let ip = server.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
            ip.or_else(|_| server.parse()).ok()
        })
        .take(SERVERS)
        .collect()
}

async fn ask_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port of its own, drawn by the kernel, for each query: harder to forge an answer for.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut answer = vec![0; UDP_LIMIT];
    loop {
        let len = socket.recv(&mut answer).await?;
        if len >= 2 && answer[..2] == query[..2] {
            answer.truncate(len);
            return Ok(answer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, query).await?;
    read_message(&mut stream).await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn servers_are_read_as_resolvers_read_them() {
        let text = "search example.com\n# nameserver 9.9.9.9\nnameserver 10.0.0.1\n nameserver\t::1\nnameserver x\nnameserver 127.0.0.1:5353\nnameserver 1.1.1.1\n";
        let expected = ["10.0.0.1:53", "[::1]:53", "127.0.0.1:5353"];
        assert_eq!(name_servers(text), expected.map(|server| server.parse().unwrap()));
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "(nameserver|[ -~\n])*") {
            let _ = name_servers(&text);
        }
    }
}
