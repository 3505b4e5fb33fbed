//! The access log: what became of each request, whatever that is.

use std::{
    io,
    sync::{Mutex, Once, PoisonError},
};

use serde_json::{Value, json};
use testkit::wait_until;
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use crate::harness::{Backend, Harness, Wire, nowhere, scripted};

static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        WRITTEN.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A router before these backends, in a process that keeps its access log.
async fn logging(domain: &str, backends: &[std::net::SocketAddr]) -> Harness {
    static KEPT: Once = Once::new();
    KEPT.call_once(|| {
        let filter = EnvFilter::new("access=debug");
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Writer).init();
    });
    let harness = Harness::start().await;
    for backend in backends {
        harness.up("app", *backend).await;
    }
    harness.route(domain, "app").await;
    harness
}

/// The lines about requests for a host, as many as there must be.
async fn lines(host: &str, count: usize) -> Vec<Value> {
    wait_until(&format!("{count} lines about {host}"), || async {
        let written = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let written = String::from_utf8(written).unwrap();
        let of_log = written.lines().filter_map(|line| line.split_once('{'));
        let lines = of_log.filter_map(|(_, line)| serde_json::from_str(&format!("{{{line}")).ok());
        let lines: Vec<Value> = lines.filter(|line: &Value| line["host"] == host).collect();
        if lines.len() == count { Ok(lines) } else { Err(written) }
    })
    .await
}

/// Some members of a line.
fn of<const N: usize>(line: &Value, names: [&str; N]) -> Value {
    names.map(|name| line[name].clone()).to_vec().into()
}

#[tokio::test]
async fn a_line_tells_all_of_a_request() {
    let backend = Backend::answering(async |body: String| format!("got {body}")).await;
    let harness = logging("whole.example", &[backend.addr]).await;
    let mut wire = harness.connect().await;
    let id = "0123456789abcdef0123";
    wire.send(&format!(
        "POST /a?secret=b HTTP/1.1\r\nHost: whole.example\r\nX-Request-Id: {id}\r\nContent-Length: 5\r\n\r\nhello"
    ))
    .await;
    assert_eq!(wire.answer().await.1, "got hello");
    let [line] = &lines("whole.example", 1).await[..] else { unreachable!() };
    let names =
        ["method", "path", "request_id", "status", "bytes_in", "bytes_out", "code", "error"];
    assert_eq!(of(line, names), json!(["POST", "/a", id, 200, 5, 9, "", null]));
    let names = ["proto", "version", "client", "service", "backend", "resent"];
    let backend = backend.addr.to_string();
    assert_eq!(of(line, names), json!(["http", "1.1", "127.0.0.1", "app", backend, 0]));
    assert!(line["route"].as_str().unwrap().starts_with("http/"), "{line}");
    let took = ["connect_ms", "service_ms", "ms"].map(|name| line[name].as_u64().unwrap());
    assert!(took.is_sorted(), "{line}");
}

#[tokio::test]
async fn a_client_that_goes_is_told_of() {
    let (came, mut coming) = mpsc::channel(2);
    let backend = scripted(move |_, mut wire: Wire| {
        let came = came.clone();
        async move {
            if wire.head().await.starts_with("GET /half") {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
            }
            came.send(()).await.unwrap();
            wire.until_end().await;
        }
    })
    .await;
    let harness = logging("gone.example", &[backend]).await;
    for path in ["/never", "/half"] {
        let mut wire = harness.connect().await;
        wire.send(&format!("GET {path} HTTP/1.1\r\nHost: gone.example\r\n\r\n")).await;
        coming.recv().await.unwrap();
        if path == "/half" {
            wire.head().await;
            wire.exactly(4).await;
        }
    }
    let mut lines = lines("gone.example", 2).await;
    lines.sort_by_key(|line| line["status"].as_u64());
    let names = ["path", "status", "code", "bytes_out", "backend"];
    let backend = backend.to_string();
    assert_eq!(of(&lines[0], names), json!(["/half", 200, "H27", 4, backend]));
    assert_eq!(of(&lines[1], names), json!(["/never", 499, "H27", 0, backend]));
}

#[tokio::test]
async fn failures_have_their_codes() {
    let backend = scripted(|_, mut wire: Wire| async move {
        match wire.head().await {
            head if head.starts_with("GET /half") => {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
            }
            head if head.starts_with("GET /bad") => wire.send("nonsense\r\n\r\n").await,
            _ => {}
        }
    })
    .await;
    let harness = logging("failing.example", &[backend]).await;
    for request in [
        "GET /half HTTP/1.1\r\nHost: failing.example\r\nConnection: close\r\n\r\n",
        "GET /bad HTTP/1.1\r\nHost: failing.example\r\nConnection: close\r\n\r\n",
        "POST /lost HTTP/1.1\r\nHost: failing.example\r\nConnection: close\r\n\r\n",
        "POST /spoilt HTTP/1.1\r\nHost: failing.example\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut wire = harness.connect().await;
        wire.send(request).await;
        wire.until_end().await;
    }
    let lines = lines("failing.example", 4).await;
    let told: Vec<_> = lines.iter().map(|line| of(line, ["path", "status", "code"])).collect();
    assert_eq!(
        Value::from(told),
        json!([
            ["/half", 200, "H18"],
            ["/bad", 502, "H17"],
            ["/lost", 502, "H13"],
            ["/spoilt", 400, "H26"],
        ])
    );
}

#[tokio::test]
async fn what_reaches_no_backend_is_told_of_as_well() {
    let nowhere = nowhere();
    let harness = logging("refused.example", &[nowhere]).await;
    harness.route("empty.example", "empty").await;
    let mut wire = harness.connect().await;
    for host in ["refused.example", "empty.example", "unknown.example"] {
        wire.get(host, "/").await;
    }
    wire.send("HEAD / HTTP/1.1\r\nHost: unknown-head.example\r\n\r\n").await;
    wire.head().await;
    for (host, wanted) in [
        ("refused.example", json!([503, "H21", "app", nowhere.to_string()])),
        ("empty.example", json!([503, "H14", "empty", null])),
        ("unknown.example", json!([404, "", null, null])),
        ("unknown-head.example", json!([404, "", null, null])),
    ] {
        let line = lines(host, 1).await.remove(0);
        assert_eq!(of(&line, ["status", "code", "service", "backend"]), wanted, "{line}");
    }
}

#[tokio::test]
async fn an_upgraded_connection_is_told_of_when_it_ends() {
    let backend = scripted(|_, mut wire: Wire| async move {
        wire.head().await;
        wire.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhi",
        )
        .await;
        wire.exactly(5).await;
    })
    .await;
    let harness = logging("chat.example", &[backend]).await;
    let mut wire = harness.connect().await;
    wire.send(
        "GET / HTTP/1.1\r\nHost: chat.example\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n",
    )
    .await;
    assert!(wire.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(wire.exactly(2).await, "hi");
    assert_eq!(lines("chat.example", 0).await, [] as [Value; 0]);
    wire.send("hello").await;
    wire.until_end().await;
    drop(wire);
    let line = lines("chat.example", 1).await.remove(0);
    let names = ["status", "code", "bytes_in", "bytes_out", "backend"];
    assert_eq!(of(&line, names), json!([101, "", 5, 2, backend.to_string()]));
}
