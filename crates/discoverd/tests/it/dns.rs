//! DNS over real sockets.

use std::net::{Ipv4Addr, SocketAddr};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use testkit::Etcd;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

use crate::support::{Daemon, Options, instance};

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

async fn over_udp(server: SocketAddr, name: &str) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query(name), server).await.unwrap();
    let mut answer = [0; 4096];
    let len = timeout(testkit::LIMIT, socket.recv(&mut answer)).await.unwrap().unwrap();
    Message::from_vec(&answer[..len]).unwrap()
}

async fn over_tcp(server: SocketAddr, name: &str) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let query = query(name);
    stream.write_u16(query.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&query).await.unwrap();
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

/// A name server that knows one address for everything.
fn answer_all(query: &[u8]) -> Vec<u8> {
    let message = Message::from_vec(query).unwrap();
    let name = message.queries[0].name().clone();
    let mut reply = message.into_response();
    reply.add_answer(Record::from_rdata(name, 60, RData::A(Ipv4Addr::new(192, 0, 2, 7).into())));
    reply.to_vec().unwrap()
}

/// Serves one query over UDP and one over TCP.
async fn upstream(udp: UdpSocket, tcp: TcpListener) {
    let mut buffer = [0; 512];
    let (len, from) = udp.recv_from(&mut buffer).await.unwrap();
    udp.send_to(&answer_all(&buffer[..len]), from).await.unwrap();
    let (mut stream, _) = tcp.accept().await.unwrap();
    let mut query = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut query).await.unwrap();
    let reply = answer_all(&query);
    stream.write_u16(reply.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&reply).await.unwrap();
}

#[tokio::test]
async fn services_are_found_by_name_and_unknown_ones_are_not() {
    let etcd = Etcd::start().await;
    let daemon = Daemon::start(&etcd).await;
    let client = daemon.client();
    for n in 1..=5 {
        client.register_for_host("web", &instance(n)).await.unwrap();
    }
    assert_eq!(over_udp(daemon.dns, "web.discoverd.").await.answers.len(), 3);
    assert_eq!(over_tcp(daemon.dns, "web.discoverd.").await.answers.len(), 5);
    testkit::wait_until("the leader has its name", async || {
        let answer = over_udp(daemon.dns, "leader.web.discoverd.").await;
        let leader = RData::A(Ipv4Addr::new(10, 0, 0, 1).into());
        if answer.answers.first().is_some_and(|record| record.data == leader) {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
    let unknown = over_udp(daemon.dns, "nobody.discoverd.").await;
    assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
    // Whatever comes, the server goes on.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for garbage in [&b""[..], b"x", &[0xff; 512]] {
        socket.send_to(garbage, daemon.dns).await.unwrap();
    }
    assert_eq!(over_udp(daemon.dns, "web.discoverd.").await.answers.len(), 3);
}

#[tokio::test]
async fn other_names_are_asked_of_the_hosts_servers() {
    let etcd = Etcd::start().await;
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let udp = UdpSocket::bind(tcp.local_addr().unwrap()).await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, format!("nameserver {}\n", tcp.local_addr().unwrap())).unwrap();
    let daemon = Options { resolv_conf: file.path(), ..Options::new(&etcd) }.start().await;
    let asking = async {
        let expected = RData::A(Ipv4Addr::new(192, 0, 2, 7).into());
        assert_eq!(over_udp(daemon.dns, "example.com.").await.answers[0].data, expected);
        assert_eq!(over_tcp(daemon.dns, "example.com.").await.answers[0].data, expected);
    };
    tokio::join!(upstream(udp, tcp), asking);
}

#[tokio::test]
async fn a_name_nobody_can_be_asked_about_fails_at_once() {
    let etcd = Etcd::start().await;
    let daemon = Daemon::start(&etcd).await;
    let answer = over_udp(daemon.dns, "example.com.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}
