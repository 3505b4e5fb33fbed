//! Where a name leads.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RData, RecordType},
};
use tokio::{
    net::{UdpSocket, lookup_host},
    time::timeout,
};

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a server is asked.
const TRIES: u32 = 2;
/// Longest answer over UDP.
const ANSWER_MAX: usize = 4096;

/// The addresses of a name, asked of that DNS server or as this host asks; none if there are none.
pub(crate) async fn addresses(server: Option<SocketAddr>, name: &str) -> io::Result<Vec<IpAddr>> {
    let Some(server) = server else {
        let found = timeout(ANSWER_TIMEOUT * TRIES, lookup_host((name, 0))).await?;
        // The system says in one way that there is no such name and that it cannot be asked.
        let mut addresses: Vec<_> =
            found.map_or(Vec::new(), |found| found.map(|addr| addr.ip()).collect());
        addresses.dedup();
        return Ok(addresses);
    };
    let mut addresses = Vec::new();
    for kind in [RecordType::AAAA, RecordType::A] {
        addresses.extend(ask(server, name, kind).await?);
    }
    Ok(addresses)
}

async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> io::Result<Vec<IpAddr>> {
    let name = Name::from_ascii(format!("{name}.")).map_err(io::Error::other)?;
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, kind));
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    for _ in 0..TRIES {
        socket.send(&bytes).await?;
        if let Ok(answer) = timeout(ANSWER_TIMEOUT, answer(&socket, question.metadata.id)).await {
            return Ok(answer?.answers.iter().filter_map(|record| address(&record.data)).collect());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// The answer to the question of that id; anything else is passed over.
async fn answer(socket: &UdpSocket, id: u16) -> io::Result<Message> {
    let mut buffer = [0; ANSWER_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Ok(message) = Message::from_vec(&buffer[..length])
            && message.metadata.id == id
        {
            return Ok(message);
        }
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}
