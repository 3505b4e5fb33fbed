//! One source that takes all it can get.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use testkit::Etcd;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::support::{Daemon, Options, own_ip};

/// More than a source may have of event streams.
const STREAMS: usize = 2048;
/// The same of queries that are forwarded.
const QUERIES: usize = 64;
/// The same of DNS connections.
const CONNECTIONS: usize = 16;
/// Below the time after which a DNS connection is closed on which nothing is asked.
const SOON: Duration = Duration::from_secs(5);

async fn start(etcd: &Etcd, resolv_conf: &Path) -> Daemon {
    let options = Options { ip: Ipv4Addr::UNSPECIFIED, resolv_conf, ..Options::new(etcd) };
    let daemon = options.start().await;
    daemon.until_it_takes_writes().await;
    daemon
}

/// The same port on this machine's own address instead of loopback, whose connections are not counted by source.
fn from_outside(addr: SocketAddr) -> SocketAddr {
    (own_ip(), addr.port()).into()
}

/// Whether the other side closes a connection on which nothing was sent.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let read = timeout(SOON, stream.read(&mut [0])).await.expect("it is closed");
    read.is_ok_and(|len| len == 0) || stream.write_all(b"x").await.is_err()
}

/// Begins an event stream, and answers with its first line.
async fn watch(server: SocketAddr) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(b"GET /services/web HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut head = [0; 15];
    let read = timeout(testkit::LIMIT, stream.read_exact(&mut head)).await.unwrap();
    let head = read.map(|_| String::from_utf8_lossy(&head).into_owned()).unwrap_or_default();
    (stream, head)
}

#[tokio::test]
async fn streams_of_one_source_have_an_end_and_others_are_served_on() {
    // Each stream takes two: this process is the server too.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).unwrap();
    let etcd = Etcd::start().await;
    let daemon = start(&etcd, Path::new("/nowhere")).await;
    let flooded = from_outside(daemon.addr);
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let (stream, head) = watch(flooded).await;
        assert_eq!(head, "HTTP/1.1 200 OK", "stream {}", streams.len());
        streams.push(stream);
    }
    assert_eq!(watch(flooded).await.1, "", "one more is closed");
    assert_eq!(watch(daemon.addr).await.1, "HTTP/1.1 200 OK", "another source is served");
    drop(streams);
    testkit::wait_until("what it gave back can be had again", async || {
        let (_, head) = watch(flooded).await;
        if head == "HTTP/1.1 200 OK" { Ok(()) } else { Err(head) }
    })
    .await;
}

#[tokio::test]
async fn dns_connections_of_one_source_have_an_end_and_others_are_served_on() {
    let etcd = Etcd::start().await;
    let daemon = start(&etcd, Path::new("/nowhere")).await;
    let flooded = from_outside(daemon.dns);
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        streams.push(TcpStream::connect(flooded).await.unwrap());
    }
    assert!(is_closed(&mut TcpStream::connect(flooded).await.unwrap()).await);
    let query = query("web.discoverd.");
    for stream in [&mut streams[0], &mut TcpStream::connect(daemon.dns).await.unwrap()] {
        stream.write_u16(query.len().try_into().unwrap()).await.unwrap();
        stream.write_all(&query).await.unwrap();
        assert!(timeout(testkit::LIMIT, stream.read_u16()).await.unwrap().unwrap() > 0);
    }
}

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

#[tokio::test]
async fn forwarded_queries_of_one_source_have_an_end_and_others_are_served_on() {
    let etcd = Etcd::start().await;
    // A server that never answers: each query occupies its place for seconds.
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let conf = tempfile::NamedTempFile::new().unwrap();
    let at = upstream.local_addr().unwrap();
    std::fs::write(conf.path(), format!("nameserver {at}\n")).unwrap();
    let daemon = start(&etcd, conf.path()).await;
    let flooded = from_outside(daemon.dns);
    let flood = UdpSocket::bind((own_ip(), 0)).await.unwrap();
    for n in 0..QUERIES + 100 {
        flood.send_to(&query(&format!("n{n}.example.com.")), flooded).await.unwrap();
    }
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    other.send_to(&query("other.example.com."), daemon.dns).await.unwrap();
    let (mut names, mut buffer) = (HashSet::new(), [0; 512]);
    while !names.contains("other.example.com.") {
        let received = timeout(testkit::LIMIT, upstream.recv(&mut buffer)).await;
        let len = received.expect("another source is served").unwrap();
        let asked = Message::from_vec(&buffer[..len]).unwrap();
        names.insert(asked.queries[0].name().to_string());
    }
    assert!(names.len() <= QUERIES + 1, "{} were forwarded", names.len());
}
