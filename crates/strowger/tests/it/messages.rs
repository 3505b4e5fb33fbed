//! What of a message is passed on, and what cannot be.

use std::{
    io::ErrorKind,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use axum::http::HeaderMap;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    time::timeout,
};

use crate::harness::{Backend, Harness, Wire, scripted};

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
async fn an_old_client_can_tell_an_answer_that_broke_off_from_a_whole_one() {
    let harness =
        answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    let mut wire = harness.connect().await;
    wire.send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n").await;
    assert!(wire.head().await.starts_with("HTTP/1.0 200 "));
    assert_eq!(wire.exactly(5).await, "hello");
    let end = timeout(testkit::LIMIT, wire.0.read(&mut [0])).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn http_2_is_not_switched_to_behind_the_routers_back() {
    let harness = Harness::start().await;
    let told = async |headers: HeaderMap| {
        format!("{:?} {:?}", headers.get("upgrade"), headers.get("http2-settings"))
    };
    harness.up("app", Backend::answering(told).await.addr).await;
    harness.route("a.example", "app").await;
    for named in ["h2c", "h2c, x"] {
        let mut wire = harness.connect().await;
        wire.send(&format!(
            "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: {named}\r\n\
             HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        ))
        .await;
        let (head, body) = wire.answer().await;
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert_eq!(body, "None None");
    }
}

#[tokio::test]
async fn a_backend_switches_to_what_was_asked_for_or_not_at_all() {
    let raw = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nhi";
    let harness = answering(raw).await;
    let mut wire = harness.connect().await;
    wire.send(
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    )
    .await;
    let (head, _) = wire.answer().await;
    assert!(head.starts_with("http/1.1 502 "), "{head}");
}

#[tokio::test]
async fn a_body_that_a_client_spoils_is_not_the_apps_fault() {
    let harness = Harness::start().await;
    let length = async |body: axum::body::Bytes| body.len().to_string();
    harness.up("app", Backend::answering(length).await.addr).await;
    harness.route("a.example", "app").await;
    for chunk in ["zz\r\n", "2;\n\nhi\r\n", "2\r\nhithere\r\n"] {
        let mut wire = harness.connect().await;
        wire.send(&format!(
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n{chunk}"
        ))
        .await;
        let (head, body) = wire.answer().await;
        assert!(head.starts_with("http/1.1 400 "), "{chunk:?}: {head}");
        assert!(body.contains("body of the request"), "{chunk:?}: {body}");
    }
    let mut wire = harness.connect().await;
    wire.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\nhi").await;
    wire.0.shutdown().await.unwrap();
    let (head, _) = wire.answer().await;
    assert!(head.is_empty() || head.starts_with("http/1.1 400 "), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_before_the_end_of_an_upload_is_passed_on() {
    let harness = Harness::start().await;
    let backend = scripted(|_, mut wire: Wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno").await;
    });
    harness.up("app", backend.await).await;
    harness.route("a.example", "app").await;
    for _ in 0..50 {
        let mut wire = harness.connect().await;
        wire.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000000\r\n\r\n").await;
        let (reading, mut writing) = wire.0.into_split();
        let upload = async {
            while writing.write_all(&[b'x'; 16 << 10]).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let (mut reading, mut head) = (BufReader::new(reading), String::new());
        tokio::select! {
            read = reading.read_line(&mut head) => assert!(read.unwrap() > 0),
            () = upload => {}
        }
        assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_answer_that_comes_before_the_end_of_an_upload_arrives_whole() {
    const LEN: usize = 300_000;
    let harness = Harness::start().await;
    let backend = scripted(|_, mut wire: Wire| async move {
        wire.head().await;
        wire.send(&format!("HTTP/1.1 413 Content Too Large\r\nContent-Length: {LEN}\r\n\r\n"))
            .await;
        wire.send(&"x".repeat(LEN)).await;
        wire.until_end().await;
    });
    harness.up("app", backend.await).await;
    harness.route("a.example", "app").await;
    for _ in 0..10 {
        let mut wire = harness.connect().await;
        wire.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000000\r\n\r\n").await;
        let (reading, mut writing) = wire.0.into_split();
        let upload = async {
            while writing.write_all(&[b'y'; 16 << 10]).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let answer = async {
            let (mut reading, mut head) = (BufReader::new(reading), String::new());
            while !head.ends_with("\r\n\r\n") {
                assert!(reading.read_line(&mut head).await.unwrap() > 0, "{head}");
            }
            let mut body = Vec::new();
            let _ = reading.read_to_end(&mut body).await;
            body.len()
        };
        tokio::select! {
            len = answer => assert_eq!(len, LEN),
            () = upload => {}
        }
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_is_told_that_its_connection_ends_with_the_answer() {
    let raw = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let harness = answering(raw).await;
    let mut wire = harness.connect().await;
    wire.send("GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n").await;
    let head = wire.head().await.to_ascii_lowercase();
    assert!(head.contains("connection: close\r\n") && !head.contains("keep-alive"), "{head}");
    assert_eq!(wire.until_end().await, "hi");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_from_either_side() {
    let long = "a".repeat(66_000);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Long: {long}\r\n\r\n");
    let harness = answering(answer.leak()).await;
    let mut wire = harness.connect().await;
    let (head, _) = wire.get("a.example", "/").await;
    assert!(head.starts_with("http/1.1 502 "), "{head}");
    wire.send(&format!("GET / HTTP/1.1\r\nHost: a.example\r\nX-Long: {long}\r\n\r\n")).await;
    let head = wire.head().await;
    assert!(head.starts_with("HTTP/1.1 431 "), "{head}");

    let https = (Ipv4Addr::LOCALHOST, harness.router.https.port()).into();
    let browser = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .resolve("a.example", https)
        .build()
        .unwrap();
    let mut request = browser.get(format!("https://a.example:{}/", https.port()));
    for n in 0..550 {
        request = request.header(format!("x-{n}"), "1");
    }
    let answer = request.send().await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (reqwest::Version::HTTP_2, 431));
}

#[tokio::test]
async fn a_length_that_a_backend_tells_twice_is_told_once() {
    let harness = answering("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello").await;
    let mut wire = harness.connect().await;
    let (head, body) = wire.get("a.example", "/").await;
    assert!(head.contains("content-length: 5\r\n"), "{head}");
    assert_eq!(body, "hello");
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

#[tokio::test]
async fn an_app_is_asked_before_its_client_is_told_to_send() {
    let harness = answering("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await;
    let mut wire = harness.connect().await;
    let ask = |length| {
        format!(
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    wire.send(&ask(100_000)).await;
    let (head, body) = wire.answer().await;
    assert!(head.starts_with("http/1.1 401 "), "{head}");
    assert_eq!(body, "no");

    // One that knows nothing of it is not waited for.
    let silent = scripted(|_, mut wire: Wire| async move {
        wire.head().await;
        assert_eq!(wire.exactly(5).await, "hello");
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    });
    harness.up("silent", silent.await).await;
    harness.route("b.example", "silent").await;
    let mut wire = harness.connect().await;
    wire.send(&ask(5).replace("a.example", "b.example")).await;
    let head = timeout(testkit::LIMIT, wire.head()).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
    wire.send("hello").await;
    assert_eq!(wire.answer().await.1, "ok");
}
