//! Clients that do not read, or not yet.

use std::{net::SocketAddr, time::Duration};

use api::route::Drain;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    time::timeout,
};

use crate::harness::{Harness, Wire, scripted, tcp_route};

/// A connection that soon has no room for what comes.
async fn narrow(at: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect(at).await.unwrap()
}

/// Says something without end, in answer to a request, a switch of protocols, or anything else, until its connection ends.
async fn talks(ended: mpsc::Sender<()>) -> SocketAddr {
    let backend = scripted(move |_, mut wire: Wire| {
        let ended = ended.clone();
        async move {
            if wire.exactly(3).await == "GET" {
                let head = wire.head().await.to_ascii_lowercase();
                wire.send(match head.contains("upgrade: talk") {
                    true => "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: talk\r\n\r\n",
                    false => "HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n",
                })
                .await;
            }
            while wire.0.write_all(&[b'x'; 64 << 10]).await.is_ok() {}
            ended.send(()).await.unwrap();
        }
    });
    backend.await
}

#[tokio::test]
async fn what_is_cut_ends_though_its_client_does_not_read() {
    for kind in ["plain", "upgrade", "tcp"] {
        let harness = Harness::start().await;
        let (ended, mut end) = mpsc::channel(1);
        let backend = talks(ended).await;
        harness.up("app", backend).await;
        harness.route("a.example", "app").await;
        let stored = harness.client.create_route(&tcp_route(0, "app")).await.unwrap();
        let tcp = ([127, 0, 0, 1], stored.route.port).into();
        let mut client = narrow(if kind == "tcp" { tcp } else { harness.http() }).await;
        let switch = match kind {
            "upgrade" => "Connection: upgrade\r\nUpgrade: talk\r\n",
            _ => "",
        };
        let ask = match kind {
            "tcp" => "hello".to_owned(),
            _ => format!("GET / HTTP/1.1\r\nHost: a.example\r\n{switch}\r\n"),
        };
        client.write_all(ask.as_bytes()).await.unwrap();
        client.read_exact(&mut [0; 4 << 10]).await.unwrap();
        let services = harness.discoverd.down("app", backend);
        let addr = backend.to_string();
        let drain = Drain { addr, services, timeout_ms: 200, keep_open: false };
        assert_eq!(harness.client.drain(&drain).await.unwrap().closed, 1, "{kind}");
        timeout(testkit::LIMIT, end.recv()).await.expect(kind);
        assert_eq!(harness.client.drain(&drain).await.unwrap().closed, 0, "{kind}");
        drop(client);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_send_all_of_a_request_before_it_reads_the_answer() {
    const LEN: usize = 40_000_000;
    let harness = Harness::start().await;
    let backend = scripted(|_, mut wire: Wire| async move {
        wire.head().await;
        wire.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n")).await;
        let (mut reading, mut writing) = wire.0.into_split();
        let answer = async { writing.write_all(&vec![b'y'; LEN]).await.unwrap() };
        let request = async {
            tokio::io::copy(&mut reading, &mut tokio::io::sink()).await.unwrap();
        };
        tokio::join!(answer, request);
    });
    harness.up("app", backend.await).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    wire.send(&format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {LEN}\r\n\r\n"))
        .await;
    let sent = timeout(2 * testkit::LIMIT, wire.0.write_all(&vec![b'x'; LEN])).await;
    sent.expect("the request is taken").unwrap();
    wire.head().await;
    let read = timeout(2 * testkit::LIMIT, wire.exactly(LEN)).await.unwrap();
    assert_eq!(read.len(), LEN);
}

#[tokio::test]
async fn what_a_client_takes_in_time_is_passed_on_before_a_cut() {
    let harness = Harness::start().await;
    let backend = scripted(|_, mut wire: Wire| async move {
        wire.send("GOODBYE").await;
        wire.until_end().await;
    });
    let backend = backend.await;
    harness.up("app", backend).await;
    let stored = harness.client.create_route(&tcp_route(0, "app")).await.unwrap();
    let stream = TcpStream::connect(("127.0.0.1", stored.route.port)).await.unwrap();
    let mut wire = Wire(stream, Vec::new());
    assert_eq!(wire.exactly(4).await, "GOOD");
    let services = harness.discoverd.down("app", backend);
    let addr = backend.to_string();
    let drain = Drain { addr, services, timeout_ms: 200, keep_open: false };
    assert_eq!(harness.client.drain(&drain).await.unwrap().closed, 1);
    assert_eq!(timeout(Duration::from_secs(10), wire.until_end()).await.unwrap(), "BYE");
}
