//! `GET /metrics`.

use testkit::wait_until;
use tokio::io::AsyncWriteExt;

use crate::harness::{Backend, Harness, KEY, Wire, nowhere, scripted, tcp_route};

pub(crate) async fn metrics(harness: &Harness) -> String {
    let url = format!("http://{}/metrics", harness.router.api[0]);
    let request = reqwest::Client::builder().no_proxy().build().unwrap().get(url);
    let answer = request.basic_auth("", Some(KEY)).send().await.unwrap();
    let kind = answer.headers()["content-type"].to_str().unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    answer.text().await.unwrap()
}

/// Waits until all these lines are there: a request ends a moment after its client has the answer.
async fn told(harness: &Harness, lines: &[String]) {
    wait_until(&format!("{lines:#?}"), || async {
        let text = metrics(harness).await;
        let missing = lines.iter().filter(|line| !text.lines().any(|there| there == **line));
        match missing.collect::<Vec<_>>() {
            missing if missing.is_empty() => Ok(()),
            missing => Err(format!("without {missing:#?}: {text}")),
        }
    })
    .await;
}

#[tokio::test]
async fn what_requests_came_to_is_counted_by_service() {
    let harness = Harness::start().await;
    let echo = Backend::answering(async |body: String| format!("got {body}")).await;
    harness.up("app", echo.addr).await;
    harness.up("dead", nowhere()).await;
    for (domain, service) in [("a.example", "app"), ("b.example", "dead"), ("c.example", "idle")] {
        harness.route(domain, service).await;
    }
    let mut wire = harness.connect().await;
    for _ in 0..3 {
        wire.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello").await;
        assert_eq!(wire.answer().await.1, "got hello");
    }
    for host in ["b.example", "nowhere.example"] {
        assert!(wire.get(host, "/").await.0.starts_with("http/1.1 "));
    }
    let lines = [
        r#"strowger_requests_total{service="app",class="2xx"} 3"#,
        r#"strowger_requests_total{service="dead",class="5xx"} 1"#,
        r#"strowger_requests_total{service="(none)",class="4xx"} 1"#,
        r#"strowger_requests_under_way{service="app"} 0"#,
        r#"strowger_received_bytes_total{service="app"} 15"#,
        r#"strowger_sent_bytes_total{service="app"} 27"#,
        r#"strowger_answer_seconds_count{service="app"} 3"#,
        r#"strowger_failures_total{service="dead",code="H21"} 1"#,
        r#"strowger_unconnected_total{service="dead"} 1"#,
        r#"strowger_client_accepted_total{protocol="http"} 1"#,
        r#"strowger_client_connections{protocol="http"} 1"#,
        "strowger_client_idle_connections 1",
        r#"strowger_backends{service="app",standing="good"} 1"#,
        r#"strowger_backends{service="dead",standing="last"} 1"#,
        r#"strowger_routes{type="http"} 3"#,
        "# TYPE strowger_answer_seconds histogram",
        "# EOF",
    ];
    told(&harness, &lines.map(str::to_owned)).await;
    let text = metrics(&harness).await;
    for name in
        ["process_resident_memory_bytes ", "process_open_fds ", "process_cpu_seconds_total "]
    {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        assert!(value.unwrap().parse::<f64>().unwrap() >= 0.0, "{text}");
    }
}

#[tokio::test]
async fn what_is_under_way_is_told_and_so_is_what_a_tcp_route_carried() {
    let harness = Harness::start().await;
    let backend = scripted(|_, mut wire: Wire| async move {
        if wire.head().await.starts_with("GET") {
            wire.until_end().await;
        }
        wire.send("bye").await;
    })
    .await;
    harness.up("app", backend).await;
    harness.route("a.example", "app").await;
    let tcp = harness.client.create_route(&tcp_route(0, "app")).await.unwrap();
    harness.synced(tcp.revision, 0).await;
    let mut wire = harness.connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", tcp.route.port)).await.unwrap();
    let lines = |under_way, tcp| {
        [
            format!(r#"strowger_requests_under_way{{service="app"}} {under_way}"#),
            format!("strowger_client_idle_connections {}", 0),
            format!(r#"strowger_client_connections{{protocol="http"}} {under_way}"#),
            format!(r#"strowger_client_connections{{protocol="tcp"}} {tcp}"#),
            format!(r#"strowger_backend_connections{{state="busy"}} {}"#, under_way + tcp),
        ]
    };
    told(&harness, &lines(1, 1)).await;
    drop(wire);
    told(&harness, &lines(0, 1)).await;
    let mut wire = Wire(stream, Vec::new());
    wire.send("hello\r\n\r\n").await;
    wire.0.shutdown().await.unwrap();
    assert_eq!(wire.until_end().await, "bye");
    drop(wire);
    told(&harness, &lines(0, 0)).await;
    let lines = [
        r#"strowger_received_bytes_total{service="app"} 9"#,
        r#"strowger_sent_bytes_total{service="app"} 3"#,
        r#"strowger_failures_total{service="app",code="H27"} 1"#,
    ];
    told(&harness, &lines.map(str::to_owned)).await;
}

#[tokio::test]
async fn apps_have_names_in_what_is_told_so_it_needs_the_key() {
    let harness = Harness::start().await;
    let url = format!("http://{}/metrics", harness.router.api[0]);
    assert_eq!(reqwest::get(url).await.unwrap().status(), 401);
}
