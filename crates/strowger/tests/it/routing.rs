//! Which backend gets a request, and what it gets.

use axum::http::{HeaderMap, Uri};

use crate::harness::{Backend, Harness, http_route};

#[tokio::test]
async fn each_request_of_a_connection_takes_the_route_of_its_own_host() {
    let harness = Harness::start().await;
    for name in ["one", "two", "any", "api"] {
        harness.up(name, Backend::named(name).await.addr).await;
    }
    harness.route("one.example", "one").await;
    harness.route("two.example", "two").await;
    harness.route("*.two.example", "any").await;
    let mut api = http_route("one.example", "api");
    api.route.path = Some("/api".into());
    harness.client.create_route(&api).await.unwrap();

    let mut wire = harness.connect().await;
    for (host, path, want) in [
        ("one.example", "/", "one"),
        ("two.example", "/", "two"),
        ("ONE.example.:80", "/x", "one"),
        ("one.example", "/api/x?y", "api"),
        ("one.example", "/apis", "one"),
        ("a.b.two.example", "/", "any"),
    ] {
        let (head, body) = wire.get(host, path).await;
        assert!(head.starts_with("http/1.1 200"), "{host}{path}: {head}");
        assert_eq!(body, want, "{host}{path}");
    }
    let (head, body) = wire.get("three.example", "/").await;
    assert!(head.starts_with("http/1.1 404"), "{head}");
    assert!(body.contains("no app"), "{body}");
    assert_eq!(wire.get("two.example", "/").await.1, "two");
}

#[tokio::test]
async fn a_route_that_is_replaced_or_removed_is_so_when_the_change_is_answered() {
    let harness = Harness::start().await;
    harness.up("one", Backend::named("one").await.addr).await;
    harness.up("two", Backend::named("two").await.addr).await;
    let stored = harness.route("a.example", "one").await;
    let mut wire = harness.connect().await;
    assert_eq!(wire.get("a.example", "/").await.1, "one");
    harness.client.set_route(&http_route("a.example", "two")).await.unwrap();
    assert_eq!(wire.get("a.example", "/").await.1, "two");
    harness.client.delete_route(&stored.route.id).await.unwrap();
    assert!(wire.get("a.example", "/").await.0.starts_with("http/1.1 404"));
    assert!(harness.client.delete_route(&stored.route.id).await.unwrap_err().is_not_found());
}

async fn told(uri: Uri, headers: HeaderMap) -> String {
    let mut text = format!("{uri}\n");
    for (name, value) in &headers {
        text += &format!("{name}: {}\n", value.to_str().unwrap_or("?"));
    }
    text
}

#[tokio::test]
async fn a_backend_is_told_who_asked_and_nothing_that_concerns_one_connection() {
    let harness = Harness::start().await;
    harness.up("app", Backend::answering(told).await.addr).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    wire.send(
        "GET http://a.example/p?q=1 HTTP/1.1\r\nHost: other.example\r\nConnection: close, X-Hop\r\n\
         X-Hop: 1\r\nKeep-Alive: 5\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n\
         X-Request-Id: 0123456789abcdef0123\r\n\r\n",
    )
    .await;
    let (_, body) = wire.answer().await;
    let port = harness.router.http.port();
    for line in [
        "/p?q=1",
        "host: a.example",
        "x-forwarded-for: 9.9.9.9, 127.0.0.1",
        "x-forwarded-proto: http",
        &format!("x-forwarded-port: {port}"),
        "x-request-id: 0123456789abcdef0123",
    ] {
        assert!(body.lines().any(|told| told == line), "{line} is missing in {body}");
    }
    assert!(body.contains("x-request-start: 1"), "{body}");
    for absent in ["x-hop", "keep-alive", "connection"] {
        assert!(!body.contains(absent), "{absent} is in {body}");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_is_served() {
    let harness = Harness::start().await;
    harness.up("app", Backend::named("hello").await.addr).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    wire.send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n").await;
    let answer = wire.until_end().await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
}

#[tokio::test]
async fn what_two_servers_might_read_differently_is_refused() {
    let harness = Harness::start().await;
    harness.up("app", Backend::named("hello").await.addr).await;
    harness.route("a.example", "app").await;
    for (rest, status) in [
        ("Host: a.example\r\nHost: b.example\r\n\r\n", 400),
        ("\r\n", 400),
        ("Host: a b\r\n\r\n", 400),
        ("Host: a.example\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        ("Host: a.example\r\nContent-Length: +3\r\n\r\nabc", 400),
        ("Host: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        ("Host: a.example\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
        ("Host : a.example\r\n\r\n", 400),
        (" Host: a.example\r\n\r\n", 400),
    ] {
        let mut wire = harness.connect().await;
        wire.send(&format!("POST / HTTP/1.1\r\n{rest}")).await;
        let head = wire.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{rest:?}: {head:?}");
    }
    // The length is dropped, the chunks count, and nothing after them is read.
    let mut wire = harness.connect().await;
    wire.send(
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n",
    )
    .await;
    assert_eq!(wire.until_end().await.matches("HTTP/1.1 ").count(), 1);
    let mut wire = harness.connect().await;
    wire.send("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert!(wire.head().await.starts_with("HTTP/1.1 405"));
    // Exactly as much as is read, for what is not read may cost the answer.
    let begin = "GET / HTTP/1.1\r\nHost: a.example\r\nX: ";
    let mut wire = harness.connect().await;
    wire.send(&format!("{begin}{}", "x".repeat((64 << 10) - begin.len()))).await;
    assert!(wire.head().await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn a_backend_has_the_host_that_http_1_1_wants_from_a_client_that_told_none() {
    let harness = Harness::start().await;
    harness.up("app", Backend::answering(told).await.addr).await;
    harness.route("*", "app").await;
    let mut wire = harness.connect().await;
    wire.send("GET / HTTP/1.0\r\n\r\n").await;
    let answer = wire.until_end().await;
    assert!(answer.starts_with("HTTP/1.0 200") && answer.contains("\nhost: \n"), "{answer}");
}
