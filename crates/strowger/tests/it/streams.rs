//! What is not one small message: streams, other protocols, TCP.

use std::{io::ErrorKind, net::Ipv4Addr, time::Duration};

use api::route::{Drain, Drained};
use axum::{body::Body, extract::Request};
use bytes::Bytes;
use daemon::line::Line;
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::harness::{Backend, Harness, Wire, scripted, tcp_route};

async fn echo(request: Request) -> Body {
    request.into_body()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_both_ways_at_once() {
    let harness = Harness::start().await;
    harness.up("app", Backend::answering(echo).await.addr).await;
    harness.route("a.example", "app").await;
    let browser = harness.browser(&["a.example"]);
    let count = 1024u32;
    let chunks = stream::iter(
        (0..count).map(|number| Ok::<_, std::io::Error>(Bytes::from(vec![number as u8; 64 << 10]))),
    );
    let body = reqwest::Body::wrap_stream(chunks);
    let answer = browser.post(harness.url("a.example", "/")).body(body).send().await.unwrap();
    let mut answer = answer.bytes_stream();
    let mut got = 0usize;
    while let Some(chunk) = answer.next().await {
        for byte in chunk.unwrap() {
            assert_eq!(byte, (got >> 16) as u8);
            got += 1;
        }
    }
    assert_eq!(got, (count as usize) << 16);
}

#[tokio::test]
async fn what_a_backend_sends_arrives_before_it_has_sent_all() {
    let harness = Harness::start().await;
    let (sender, events) = mpsc::channel::<Result<&str, std::io::Error>>(1);
    let events = std::sync::Arc::new(std::sync::Mutex::new(Some(events)));
    let handler = async move || {
        let events = events.lock().unwrap().take().unwrap();
        Body::from_stream(ReceiverStream::new(events))
    };
    harness.up("app", Backend::answering(handler).await.addr).await;
    harness.route("a.example", "app").await;
    let browser = harness.browser(&["a.example"]);
    let answer = browser.get(harness.url("a.example", "/")).send().await.unwrap();
    let mut answer = answer.bytes_stream();
    for text in ["one", "two", "three"] {
        sender.send(Ok(text)).await.unwrap();
        assert_eq!(answer.next().await.unwrap().unwrap(), text);
    }
    drop(sender);
    assert!(answer.next().await.is_none());
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_request_at_the_backend() {
    let harness = Harness::start().await;
    let (ended, mut end) = mpsc::channel(1);
    let backend = scripted(move |_, mut wire: Wire| {
        let ended = ended.clone();
        async move {
            wire.head().await;
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome").await;
            assert_eq!(wire.until_end().await, "");
            ended.send(()).await.unwrap();
        }
    })
    .await;
    harness.up("app", backend).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    wire.head().await;
    assert_eq!(wire.exactly(4).await, "some");
    drop(wire);
    timeout(testkit::LIMIT, end.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_backend_of_http_1_0_and_one_that_breaks_off_are_told_apart() {
    let harness = Harness::start().await;
    let whole = scripted(|_, mut wire: Wire| async move {
        wire.head().await;
        wire.send("HTTP/1.0 200 OK\r\n\r\nto the end").await;
    });
    harness.up("whole", whole.await).await;
    harness.route("whole.example", "whole").await;
    let broken = scripted(|_, mut wire: Wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").await;
    });
    harness.up("broken", broken.await).await;
    harness.route("broken.example", "broken").await;
    let garbage = scripted(|_, mut wire: Wire| async move {
        wire.head().await;
        wire.send("nonsense\r\n\r\n").await;
    });
    harness.up("garbage", garbage.await).await;
    harness.route("garbage.example", "garbage").await;

    let browser = harness.browser(&["whole.example", "broken.example", "garbage.example"]);
    let get = |host| browser.get(harness.url(host, "/")).send();
    assert_eq!(get("whole.example").await.unwrap().text().await.unwrap(), "to the end");
    let broken = get("broken.example").await.unwrap();
    assert_eq!(broken.status(), 200);
    broken.text().await.unwrap_err();
    assert_eq!(get("garbage.example").await.unwrap().status(), 502);
}

#[tokio::test]
async fn what_came_of_an_answer_that_breaks_off_reaches_the_client() {
    let harness = Harness::start().await;
    let broken = scripted(|_, mut wire: Wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").await;
    });
    harness.up("app", broken.await).await;
    harness.route("a.example", "app").await;
    for _ in 0..20 {
        let mut wire = harness.connect().await;
        wire.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
        let all = wire.until_end().await;
        assert!(all.starts_with("HTTP/1.1 200 ") && all.ends_with("\r\n\r\npart"), "{all}");
    }

    let https = (Ipv4Addr::LOCALHOST, harness.router.https.port()).into();
    let two = reqwest::Client::builder().tls_danger_accept_invalid_certs(true);
    let two = two.resolve("a.example", https).build().unwrap();
    for _ in 0..20 {
        let url = format!("https://a.example:{}/", https.port());
        let mut answer = two.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.chunk().await.unwrap().unwrap(), "part");
        answer.chunk().await.unwrap_err();
    }
}

#[tokio::test]
async fn trailers_say_nothing_that_belongs_in_a_head() {
    let harness = Harness::start().await;
    let backend = scripted(|_, mut wire: Wire| async move {
        wire.head().await;
        let body = wire.exactly("2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n".len()).await;
        assert_eq!(body, "2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n");
        wire.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, x-forwarded-for\r\n\r\n\
             2\r\nhi\r\n0\r\nx-forwarded-for: 1.1.1.1\r\nx-sum: 2\r\n\r\n",
        )
        .await;
    });
    harness.up("app", backend.await).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    wire.send(
        "POST / HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nConnection: TE\r\n\
         Transfer-Encoding: chunked\r\nTrailer: x-sum, x-forwarded-for\r\n\r\n\
         2\r\nhi\r\n0\r\nx-forwarded-for: 1.1.1.1\r\nx-sum: 1\r\n\r\n",
    )
    .await;
    let head = wire.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(wire.head().await, "2\r\nhi\r\n0\r\nx-sum: 2\r\n\r\n");
}

#[tokio::test]
async fn heads_without_bodies_trailers_and_continue_are_passed_on() {
    let harness = Harness::start().await;
    let backend = scripted(|_, mut wire: Wire| async move {
        loop {
            let head = wire.head().await.to_ascii_lowercase();
            if head.is_empty() {
                return;
            }
            let answer = if head.starts_with("head") {
                "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"
            } else if head.starts_with("get /none") {
                "HTTP/1.1 204 No Content\r\n\r\n"
            } else if head.starts_with("get /old") {
                "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"
            } else if head.starts_with("get /trailers") {
                assert!(head.contains("te: trailers"), "{head}");
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                 2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n"
            } else {
                assert!(head.contains("expect: 100-continue"), "{head}");
                wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
                assert_eq!(wire.exactly(5).await, "hello");
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            };
            wire.send(answer).await;
        }
    });
    harness.up("app", backend.await).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    wire.send("HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert!(wire.head().await.to_ascii_lowercase().contains("content-length: 7"));
    wire.send("GET /none HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert!(wire.head().await.starts_with("HTTP/1.1 204"));
    wire.send("GET /old HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert!(wire.head().await.starts_with("HTTP/1.1 304"));
    wire.send(
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    )
    .await;
    assert!(wire.head().await.starts_with("HTTP/1.1 100"));
    wire.send("hello").await;
    assert_eq!(wire.answer().await.1, "ok");
    wire.send(
        "GET /trailers HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
    )
    .await;
    assert!(wire.head().await.to_ascii_lowercase().contains("trailer: x-sum"));
    assert_eq!(wire.head().await, "2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n");
}

/// Switches to a protocol that says what it hears in capitals, and goodbye at the end.
async fn shout(mut wire: Wire) {
    let head = wire.head().await.to_ascii_lowercase();
    assert!(head.contains("upgrade: shout\r\n") && head.contains("connection: upgrade\r\n"));
    if head.starts_with("get /no") {
        wire.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
        return;
    }
    wire.send(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\nHI!",
    )
    .await;
    let heard = wire.exactly(5).await;
    wire.send(&heard.to_ascii_uppercase()).await;
    let rest = wire.until_end().await;
    wire.send(&format!("{} BYE", rest.to_ascii_uppercase())).await;
}

#[tokio::test]
async fn a_switched_protocol_is_copied_both_ways_until_both_have_ended() {
    let harness = Harness::start().await;
    let backend = scripted(|_, wire| shout(wire)).await;
    harness.up("app", backend).await;
    harness.route("a.example", "app").await;
    let ask = |path| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: shout\r\n\r\n"
        )
    };

    let mut refused = harness.connect().await;
    refused.send(&ask("/no")).await;
    assert_eq!(refused.answer().await.1, "no");

    let mut wire = harness.connect().await;
    wire.send(&ask("/")).await;
    let head = wire.head().await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: shout"), "{head}");
    assert_eq!(wire.exactly(3).await, "HI!");
    wire.send("hello").await;
    assert_eq!(wire.exactly(5).await, "HELLO");
    wire.send("more").await;
    wire.0.shutdown().await.unwrap();
    assert_eq!(wire.until_end().await, "MORE BYE");
}

#[tokio::test]
async fn a_switched_protocol_counts_as_under_way_and_is_cut_at_last() {
    let harness = Harness::start().await;
    let backend = scripted(|_, wire| shout(wire)).await;
    harness.up("app", backend).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n")
        .await;
    wire.head().await;
    assert_eq!(wire.exactly(3).await, "HI!");
    let services = harness.discoverd.down("app", backend);
    let drain = Drain { addr: backend.to_string(), services, timeout_ms: 200, keep_open: false };
    // Whoever has nothing but such connections left is told to stop with them open.
    let kept = Drain { timeout_ms: 60_000, keep_open: true, ..drain.clone() };
    assert_eq!(harness.client.drain(&kept).await.unwrap(), Drained { closed: 0, open: 1 });
    wire.send("still").await;
    assert_eq!(wire.exactly(5).await, "STILL");
    assert_eq!(harness.client.drain(&drain).await.unwrap().closed, 1);
    assert_eq!(timeout(testkit::LIMIT, wire.until_end()).await.unwrap(), "");
    assert_eq!(harness.client.drain(&drain).await.unwrap().closed, 0);
}

#[tokio::test]
async fn a_tcp_route_gets_a_port_and_passes_bytes_both_ways() {
    let harness = Harness::start().await;
    let backend = scripted(|_, mut wire: Wire| async move {
        let heard = wire.until_end().await;
        wire.send(&heard.to_ascii_uppercase()).await;
    });
    harness.up("ssh", backend.await).await;
    let stored = harness.client.create_route(&tcp_route(0, "ssh")).await.unwrap();
    let port = stored.route.port;
    assert!((3000..=3500).contains(&port));
    let connect = || TcpStream::connect(("127.0.0.1", port));
    let mut stream = connect().await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
    assert_eq!(answer, "HELLO");

    harness.client.set_route(&tcp_route(port, "none")).await.unwrap();
    let mut stream = connect().await.unwrap();
    let ended = tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer);
    timeout(Duration::from_secs(5), ended).await.unwrap().unwrap();

    harness.client.delete_route(&stored.route.id).await.unwrap();
    testkit::wait_until("the port is closed", || async {
        if connect().await.is_ok() { Err("still open") } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn what_breaks_off_is_not_told_as_an_end() {
    let harness = Harness::start().await;
    let backend = scripted(|_, mut wire: Wire| async move {
        if wire.exactly(3).await == "GET" {
            wire.head().await;
            let switch = "Connection: upgrade\r\nUpgrade: shout\r\n";
            wire.send(&format!("HTTP/1.1 101 Switching Protocols\r\n{switch}\r\n")).await;
        }
        wire.send("half").await;
        wire.exactly(2).await;
        wire.0.set_zero_linger().unwrap();
    });
    harness.up("app", backend.await).await;
    harness.route("a.example", "app").await;
    let stored = harness.client.create_route(&tcp_route(0, "app")).await.unwrap();
    let port = stored.route.port;
    let mut tcp = Wire(TcpStream::connect(("127.0.0.1", port)).await.unwrap(), Vec::new());
    tcp.send("TCP").await;
    let mut switched = harness.connect().await;
    switched
        .send("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n")
        .await;
    assert!(switched.head().await.starts_with("HTTP/1.1 101 "));
    for mut wire in [tcp, switched] {
        assert_eq!(wire.exactly(4).await, "half");
        wire.send("go").await;
        let end = timeout(testkit::LIMIT, wire.0.read(&mut [0])).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn what_a_client_said_before_it_broke_off_arrives() {
    const LEN: usize = 1 << 20;
    let harness = Harness::start().await;
    let (begin, begun) = watch::channel(false);
    let (tell, mut told) = mpsc::channel(1);
    let backend = scripted(move |_, mut wire: Wire| {
        let (mut begun, tell) = (begun.clone(), tell.clone());
        async move {
            begun.wait_for(|begun| *begun).await.unwrap();
            let (mut len, mut piece) = (0, vec![0; 64 << 10]);
            let end = loop {
                match wire.0.read(&mut piece).await {
                    Ok(0) => break None,
                    Ok(read) => len += read,
                    Err(err) => break Some(err.kind()),
                }
            };
            tell.send((len, end)).await.unwrap();
        }
    });
    harness.up("app", backend.await).await;
    let stored = harness.client.create_route(&tcp_route(0, "app")).await.unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", stored.route.port)).await.unwrap();
    client.write_all(&vec![b'x'; LEN]).await.unwrap();
    Line::of(&client).unwrap().until_taken().await;
    client.set_zero_linger().unwrap();
    drop(client);
    begin.send_replace(true);
    let heard = timeout(testkit::LIMIT, told.recv()).await.unwrap();
    assert_eq!(heard, Some((LEN, Some(ErrorKind::ConnectionReset))));
}
