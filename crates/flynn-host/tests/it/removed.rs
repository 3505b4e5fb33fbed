//! A host that was taken out of its cluster.

use std::net::SocketAddr;

use api::host::Status;
use axum::{Router, extract::Path, routing::get};
use daemon::{Lifetime, relay::relay};
use keyspace::Transaction;
use serde_json::{Value, json};
use testkit::wait_until_for;
use tokio::{net::TcpListener, net::TcpStream};
use tunnel::{Service, accept, dial};

use crate::support::{Fixture, LIMIT, docker, identity, is, shell};

fn tunnel_of(host: &Fixture) -> SocketAddr {
    ([127, 0, 0, 1], host.config.tunnel_port).into()
}

/// What a machine that has a host's certificate is told when it asks whether that one was removed.
async fn told(host: &Fixture, id: &str, joined_at: &str) -> Value {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let own = identity(host, id);
    let mut stream = dial(tunnel_of(host), &host.prefix, Service::Join, &own).await.unwrap();
    let ask = format!(
        "GET /cluster/removed/{id}?joined_at={joined_at} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"))
}

fn record(joined_at: &str) -> Vec<u8> {
    let record = json!({ "addr": "127.0.0.9", "tunnel_port": 9, "joined_at": joined_at });
    serde_json::to_vec(&record).unwrap()
}

/// Waits until a host has ended all it ran and does not start again.
async fn has_left(host: &mut Fixture) {
    has_left_because(host, "was removed from its cluster").await;
}

async fn has_left_because(host: &mut Fixture, why: &str) {
    let noted = host.dir.path().join("host/removed.json");
    wait_until_for(LIMIT, "the host notes that it was removed", async || {
        if noted.exists() { Ok(()) } else { Err(host.client().jobs().await.map(|jobs| jobs.len())) }
    })
    .await;
    host.stop_daemon().await;
    let refused = host.try_to_start().await.err().unwrap().to_string();
    assert!(refused.contains(why), "{refused}");
    let left = docker(&["ps", "-aq", "--filter", &format!("label=flynn.host={}", host.prefix)]);
    assert_eq!(left, "", "nothing of it runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_host_is_told_so_by_the_others_and_by_nobody_too_early() {
    let host = Fixture::start_several().await;
    let etcd = host.keyspace().await;
    let (joined, again) = ("2026-01-02T03:04:05Z", "2026-02-02T03:04:05Z");
    let add = async |at: &str| {
        etcd.commit(Transaction::new().put("/flynn/hosts/h9", record(at))).await.unwrap();
    };
    add(joined).await;
    let client = host.client();
    wait_until_for(LIMIT, "the host is known", async || {
        let hosts = client.hosts().await.map_err(|err| err.to_string())?;
        if hosts.iter().any(|one| one.id == "h9") { Ok(()) } else { Err(format!("{hosts:?}")) }
    })
    .await;
    assert_eq!(told(&host, "h9", joined).await, json!({ "removed": false }));
    client.remove_host("h9", false).await.unwrap();
    assert_eq!(told(&host, "h9", joined).await, json!({ "removed": true }));
    // Another machine that has the id by now, and one that nobody knows.
    assert_eq!(told(&host, "h9", again).await, json!({ "removed": false }));
    assert_eq!(told(&host, "h8", joined).await, json!({ "removed": false }));
    add(again).await;
    assert_eq!(told(&host, "h9", joined).await, json!({ "removed": false }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_removed_while_it_runs_stops_its_jobs_and_stays_away() {
    let mut host = Fixture::start_several().await;
    let mut job = shell("sleep 1000");
    job.resurrect = true;
    host.run(&job, is(Status::Running)).await;
    let etcd = host.keyspace().await;
    let key = format!("/flynn/hosts/{}", host.prefix);
    let known = etcd.get(&key).await.unwrap().unwrap();
    let known: Value = serde_json::from_slice(&known.value).unwrap();
    let joined_at = known["joined_at"].as_str().unwrap().to_owned();
    let removal = Transaction::new()
        .put("/flynn/hosts/other", record(&joined_at))
        .delete(key)
        .put(format!("/flynn/removed/{}", host.prefix), joined_at);
    etcd.commit(removal).await.unwrap();
    has_left(&mut host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_id_another_machine_took_over_leaves() {
    let mut host = Fixture::start_several().await;
    let (etcd, key) = (host.keyspace().await, format!("/flynn/hosts/{}", host.prefix));
    let kept = std::fs::read(host.dir.path().join("host/host.json")).unwrap();
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    let known = async || {
        let found = etcd.get(&key).await.unwrap().unwrap();
        serde_json::from_slice::<Value>(&found.value).unwrap()
    };
    let joined_at = known().await["joined_at"].clone();
    assert_eq!(kept["joined_at"], joined_at);
    let put = async |at: &str| {
        etcd.commit(Transaction::new().put(key.clone(), record(at))).await.unwrap();
    };
    // What a recovery brought back is of a machine before this one.
    put("2020-01-02T03:04:05Z").await;
    wait_until_for(LIMIT, "the host says who it is", async || {
        let now = known().await;
        if now["joined_at"] == joined_at { Ok(()) } else { Err(now) }
    })
    .await;
    put("2099-01-02T03:04:05Z").await;
    has_left_because(&mut host, "another machine has joined the cluster").await;
    assert_eq!(known().await["joined_at"], "2099-01-02T03:04:05Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_comes_back_and_was_removed_meanwhile_stops_its_jobs_and_stays_away() {
    let mut host = Fixture::start_several().await;
    let mut job = shell("sleep 1000");
    job.resurrect = true;
    host.run(&job, is(Status::Running)).await;
    host.stop_daemon().await;
    // The other host let it go, and lets it in no more; it has etcd.
    let lifetime = Lifetime::default();
    let other = refusing_host(&host, &lifetime).await;
    let path = host.dir.path().join("host/grid.json");
    let mut grid: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    grid["hosts"]["other"] = json!({
        "addr": "127.0.0.1", "tunnel_port": other.port(), "joined_at": "2026-01-02T03:04:05Z",
    });
    grid["members"] = json!([{ "host": "other", "peer_url": "https://127.0.0.1:9" }]);
    std::fs::write(&path, grid.to_string()).unwrap();
    std::fs::write(host.dir.path().join("host/etcd.json"), json!({ "role": "client" }).to_string())
        .unwrap();
    host.start_daemon().await;
    has_left(&mut host).await;
    lifetime.end();
}

/// A host that knows of the other only that it was removed.
async fn refusing_host(host: &Fixture, lifetime: &Lifetime) -> SocketAddr {
    let answers = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = answers.local_addr().unwrap();
    let (id, meant) = (identity(host, "other"), host.prefix.clone());
    let removed = move |Path(id): Path<String>| {
        std::future::ready(axum::Json(json!({ "removed": id == meant })))
    };
    lifetime.serve(answers, Router::new().route("/cluster/removed/{id}", get(removed)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    lifetime.spawn("other host", move |stop| async move {
        while let Some(Ok((stream, peer))) = stop.run_until_cancelled(listener.accept()).await {
            let Ok(accepted) = accept(stream, peer, &id).await else { continue };
            if accepted.service == Service::Join {
                relay(accepted.stream, TcpStream::connect(at).await.unwrap()).await.await;
            }
        }
    });
    addr
}
