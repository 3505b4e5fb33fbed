//! What of a message is passed on, and what cannot be.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod harness;

use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use harness::{Backend, Harness, Wire, scripted};

/// A router before a backend that says these bytes after the head of a request, and closes.
async fn answering(raw: &'static str) -> Harness {
    let harness = Harness::start().await;
    let backend = scripted(move |_, mut wire: Wire| async move {
        wire.head().await;
        wire.send(raw).await;
    });
    harness.up("app", backend.await).await;
    harness.route("a.example", "app").await;
    harness
}

#[tokio::test]
async fn chunks_count_and_a_length_beside_them_is_dropped() {
    for length in [4, 11, 40] {
        let raw = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n\
             b\r\nhello world\r\n0\r\n\r\n"
        );
        let harness = answering(raw.leak()).await;
        let browser = harness.browser(&["a.example"]);
        let answer = browser.get(harness.url("a.example", "/")).send().await.unwrap();
        assert_eq!(answer.headers().get("content-length"), None, "{length}");
        assert_eq!(answer.text().await.unwrap(), "hello world", "{length}");
    }
}

#[tokio::test]
async fn an_answer_that_a_client_could_not_read_is_told_as_such() {
    for raw in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhello",
    ] {
        let harness = answering(raw).await;
        let mut wire = harness.connect().await;
        let (head, body) = wire.get("a.example", "/").await;
        assert!(head.starts_with("http/1.1 502 "), "{raw}: {head}");
        assert!(body.contains("not HTTP/1.1"), "{raw}: {body}");
    }
}

#[tokio::test]
async fn http_2_is_not_switched_to_behind_the_routers_back() {
    let harness = Harness::start().await;
    let told = async |headers: HeaderMap| format!("{:?}", headers.get("upgrade"));
    harness.up("app", Backend::answering(told).await.addr).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    wire.send(
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    )
    .await;
    let (head, body) = wire.answer().await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert_eq!(body, "None");
}

#[tokio::test]
async fn a_target_that_is_no_path_is_refused() {
    let harness = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    for target in ["a.example", "a.example:80"] {
        let mut wire = harness.connect().await;
        wire.send(&format!("GET {target} HTTP/1.1\r\nHost: b.example\r\n\r\n")).await;
        let head = wire.head().await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{target}: {head}");
    }
}

#[tokio::test]
async fn what_cannot_be_sent_again_takes_no_connection_that_was_idle_for_long() {
    let harness = Harness::start().await;
    // It hangs up on the second request of a connection, as one whose idle time ends just then.
    let backend = scripted(|_, mut wire: Wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        wire.head().await;
    });
    harness.up("app", backend.await).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    assert_eq!(wire.get("a.example", "/").await.1, "ok");
    let (idle_since, long) = (Instant::now(), Duration::from_millis(1_200));
    testkit::wait_until("the connection to be idle for long", || async {
        let idle = idle_since.elapsed();
        if idle > long { Ok(()) } else { Err(idle) }
    })
    .await;
    wire.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(wire.answer().await.1, "ok");
}

#[tokio::test]
async fn heads_have_as_many_lines_as_apps_and_browsers_make_them() {
    let lines = |name: &str| (0..400).map(|n| format!("{name}-{n}: 1\r\n")).collect::<String>();
    let harness = Harness::start().await;
    let answer = lines("x-answer");
    let backend = scripted(move |_, mut wire: Wire| {
        let answer = answer.clone();
        async move {
            let count = wire.head().await.matches("x-request-").count().to_string();
            let length = count.len();
            wire.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{answer}\r\n{count}"
            ))
            .await;
        }
    });
    harness.up("app", backend.await).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    let request = lines("x-request");
    wire.send(&format!("GET / HTTP/1.1\r\nHost: a.example\r\n{request}\r\n")).await;
    let (head, body) = wire.answer().await;
    assert_eq!(head.matches("x-answer-").count(), 400, "{head}");
    // Two are the router's own.
    assert_eq!(body, "402");
}
