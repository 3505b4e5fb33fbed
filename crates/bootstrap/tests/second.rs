//! A host without bootstrap's state never starts a second layer 1.
#![expect(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    time::Duration,
};

use bootstrap::{cluster::Cluster, error::StepError};

/// A discoverd that answers every request with this status and body.
fn discoverd(status: u16, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
                 connection: close\r\n\r\n{body}"
            );
            stream.write_all(head.as_bytes()).unwrap();
        }
    });
    url
}

fn cluster(data: &Path, discoverd: &str) -> Cluster {
    std::fs::create_dir_all(data.join("host")).unwrap();
    std::fs::write(data.join("host/cluster.key"), "secret").unwrap();
    Cluster::open(data, discoverd, Duration::from_secs(5)).unwrap()
}

#[tokio::test]
async fn a_cluster_that_has_a_controller_is_left_alone() {
    let data = tempfile::tempdir().unwrap();
    let one = r#"[{"id": "a", "addr": "100.64.0.9:3000", "proto": "http", "index": 7}]"#;
    let refused = cluster(data.path(), &discoverd(200, one)).refuse_second_bootstrap().await;
    let said = refused.unwrap_err();
    assert!(matches!(&said, StepError::HasController(addr) if addr == "100.64.0.9:3000"));
    assert!(said.to_string().contains("nothing was changed"), "{said}");
}

#[tokio::test]
async fn a_new_cluster_has_no_controller_and_one_that_cannot_be_asked_is_no_new_one() {
    let data = tempfile::tempdir().unwrap();
    for (status, body) in [
        (200, "[]"),
        (404, r#"{"code": "object_not_found", "message": "no such service", "retry": false}"#),
    ] {
        cluster(data.path(), &discoverd(status, body)).refuse_second_bootstrap().await.unwrap();
    }
    let away = discoverd(400, r#"{"code": "unknown_error", "message": "broken", "retry": false}"#);
    cluster(data.path(), &away).refuse_second_bootstrap().await.unwrap_err();
}
