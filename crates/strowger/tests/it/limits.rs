//! What is taken on at once, and what is told to those who come on top.

use std::{net::Ipv4Addr, num::NonZeroU32, time::Duration};

use strowger::LimitConfig;
use tokio::{
    net::TcpStream,
    sync::{Mutex, mpsc},
    time::timeout,
};

use crate::harness::{Backend, Harness, Wire, scripted, tcp_route};

fn some(number: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(number)
}

/// Reads requests, tells of each and answers none.
async fn hangs(asked: mpsc::Sender<()>) -> std::net::SocketAddr {
    let backend = scripted(move |_, mut wire: Wire| {
        let asked = asked.clone();
        async move {
            while !wire.head().await.is_empty() {
                asked.send(()).await.unwrap();
            }
        }
    });
    backend.await
}

#[tokio::test]
async fn an_app_that_hangs_takes_the_router_from_no_other() {
    const ALL: u32 = 8;
    let limits = LimitConfig { requests_max: some(ALL), ..LimitConfig::default() };
    let harness = Harness::limited(limits).await;
    let (asked, mut asks) = mpsc::channel(100);
    harness.up("hangs", hangs(asked).await).await;
    harness.up("fine", Backend::named("fine").await.addr).await;
    harness.route("hangs.example", "hangs").await;
    harness.route("fine.example", "fine").await;
    let mut waiting = Vec::new();
    for _ in 0..ALL / 2 {
        let mut wire = harness.connect().await;
        wire.send("GET / HTTP/1.1\r\nHost: hangs.example\r\n\r\n").await;
        asks.recv().await.unwrap();
        waiting.push(wire);
    }
    let asks = Mutex::new(asks);
    let mut wire = harness.connect().await;
    let (head, body) = timeout(testkit::LIMIT, wire.get("hangs.example", "/")).await.unwrap();
    assert!(head.starts_with("http/1.1 503 ") && head.contains("retry-after: "), "{head}");
    assert!(body.contains("too many requests"), "{body}");
    for _ in 0..ALL {
        assert_eq!(wire.get("fine.example", "/").await.1, "fine");
    }
    waiting.pop();
    testkit::wait_until("the one that ended to make room", async || {
        let mut wire = harness.connect().await;
        wire.send("GET / HTTP/1.1\r\nHost: hangs.example\r\n\r\n").await;
        tokio::select! {
            _ = async { asks.lock().await.recv().await } => Ok(()),
            head = wire.head() => Err(head),
        }
    })
    .await;
}

#[tokio::test]
async fn connections_of_other_protocols_count_as_long_as_they_last() {
    let limits = LimitConfig { requests_max: some(2), ..LimitConfig::default() };
    let harness = Harness::limited(limits).await;
    let backend = scripted(|_, mut wire: Wire| async move {
        wire.send("hi").await;
        wire.until_end().await;
    });
    harness.up("app", backend.await).await;
    let stored = harness.client.create_route(&tcp_route(0, "app")).await.unwrap();
    let said = async || {
        let at = ("127.0.0.1", stored.route.port);
        let mut wire = Wire(TcpStream::connect(at).await.unwrap(), Vec::new());
        (wire.exactly(2).await, wire)
    };
    let (first, wire) = said().await;
    assert_eq!(first, "hi");
    assert_eq!(said().await.0, "", "it is closed");
    drop(wire);
    testkit::wait_until("the first to have ended", async || {
        let (said, _) = said().await;
        if said == "hi" { Ok(()) } else { Err(said) }
    })
    .await;
}

#[tokio::test]
async fn an_app_has_its_time_for_the_first_byte_of_an_answer_and_no_more() {
    let answer_timeout = NonZeroU32::MIN;
    let harness = Harness::limited(LimitConfig { answer_timeout, ..LimitConfig::default() }).await;
    let backend = scripted(|_, mut wire: Wire| async move {
        if wire.head().await.starts_with("POST") {
            // Half of an answer, which may then take its time.
            wire.exactly(5).await;
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").await;
            timeout(Duration::from_secs(4), wire.head()).await.unwrap_err();
            wire.send("k").await;
        }
        wire.until_end().await;
    });
    harness.up("app", backend.await).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    let (head, body) = timeout(testkit::LIMIT, wire.get("a.example", "/")).await.unwrap();
    assert!(head.starts_with("http/1.1 504 "), "{head}");
    assert!(body.contains("did not begin to answer"), "{body}");

    // Nor does the time for the request count.
    wire.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n").await;
    let pause = Duration::from_secs(4);
    timeout(pause, wire.head()).await.expect_err("the request is not whole");
    wire.send("hello").await;
    let (head, body) = timeout(testkit::LIMIT, wire.answer()).await.unwrap();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert_eq!(body, "ok");
}

#[tokio::test]
async fn a_client_has_its_connections_and_those_on_top_are_told_so_at_once() {
    let limits = LimitConfig { client_connections_max: some(2), ..LimitConfig::default() };
    let harness = Harness::limited(limits).await;
    harness.up("app", Backend::named("fine").await.addr).await;
    harness.route("a.example", "app").await;
    let mut wires = [harness.connect().await, harness.connect().await];
    for wire in &mut wires {
        assert_eq!(wire.get("a.example", "/").await.1, "fine");
    }
    let mut third = harness.connect().await;
    let (head, body) = timeout(testkit::LIMIT, third.get("a.example", "/")).await.unwrap();
    assert!(head.starts_with("http/1.1 503 ") && head.contains("retry-after: "), "{head}");
    assert!(head.contains("connection: close"), "{head}");
    assert!(body.contains("overloaded"), "{body}");
    let https = (Ipv4Addr::LOCALHOST, harness.router.https.port());
    let mut secure = Wire(TcpStream::connect(https).await.unwrap(), Vec::new());
    assert_eq!(timeout(testkit::LIMIT, secure.until_end()).await.unwrap(), "");
    drop(wires);
    testkit::wait_until("those that ended to make room", async || {
        let (head, body) = harness.connect().await.get("a.example", "/").await;
        if body == "fine" { Ok(()) } else { Err(head) }
    })
    .await;
}
