//! What the README promises when something dies.

use std::time::Duration;

use api::{discoverd::Event, error::ErrorCode};
use futures_util::StreamExt;
use testkit::{Etcd, wait_until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::support::{Daemon, Options, addrs, instance, until};

#[tokio::test]
async fn a_watcher_loses_nothing_when_etcd_is_killed_and_restarted() {
    let mut etcd = Etcd::start().await;
    let daemon = Daemon::start(&etcd).await;
    let client = daemon.client();
    client.register_for_host("web", &instance(1)).await.unwrap();
    let mut events = Box::pin(client.client().events::<Event>("/services/web").await.unwrap());
    let mut watch = client.watch("web");
    until(&mut watch, "one", |set| set.instances.len() == 1).await;

    let health = async |code: &str, word: &str| {
        let status = raw_get(&daemon, "/.well-known/status").await;
        let is_so = status.starts_with(&format!("HTTP/1.1 {code}")) && status.contains(word);
        if is_so { Ok(()) } else { Err(status) }
    };
    wait_until("it is healthy", async || health("200", r#""healthy""#).await).await;
    etcd.kill();
    wait_until("it says that etcd is away", async || health("500", "etcd is away").await).await;
    assert!(raw_get(&daemon, "/ping").await.starts_with("HTTP/1.1 200"), "it runs");
    wait_until("reads say that they are stale", async || {
        let url = format!("{}/services/web/instances", daemon.url());
        let answer = raw_get(&daemon, "/services/web/instances").await;
        let stale = answer.to_lowercase().contains("discoverd-stale: true");
        if stale && answer.contains("10.0.0.1:8080") { Ok(()) } else { Err((url, answer)) }
    })
    .await;
    let write = client.client().without_retries();
    let refused = write
        .delete::<serde_json::Value>(&format!("/services/web/instances/{}", instance(9).id))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::ServiceUnavailable));
    assert!(refused.is_retryable());

    etcd.restart().await;
    wait_until("writes succeed again", async || {
        client.register_for_host("web", &instance(2)).await
    })
    .await;
    let set = until(&mut watch, "both", |set| set.instances.len() == 2).await;
    assert_eq!(addrs(&set), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    wait_until("it is healthy again", async || health("200", r#""healthy""#).await).await;
    // The stream that was open before goes on: it never told that the first one was gone.
    let mut told = Vec::new();
    while !told.contains(&instance(2).addr) {
        let event = tokio::time::timeout(testkit::LIMIT, events.next()).await.unwrap();
        let event = event.unwrap().unwrap();
        assert_ne!(event.kind, api::discoverd::EventKind::Down, "{event:?}");
        told.extend(event.instance.map(|instance| instance.addr));
    }
}

#[tokio::test]
async fn it_comes_up_before_etcd_does() {
    let mut etcd = Etcd::start().await;
    etcd.kill();
    let daemon = Options::new(&etcd).start().await;
    assert!(raw_get(&daemon, "/ping").await.starts_with("HTTP/1.1 200"));
    let status = raw_get(&daemon, "/.well-known/status").await;
    assert!(status.starts_with("HTTP/1.1 500") && status.contains("has not told"), "{status}");
    let early = raw_get(&daemon, "/services/web/instances").await;
    assert!(early.starts_with("HTTP/1.1 503") && early.contains("\"retry\":true"), "{early}");
    let client = daemon.client();
    let mut watch = client.watch("web");
    etcd.restart().await;
    wait_until("writes succeed", async || client.register_for_host("web", &instance(1)).await)
        .await;
    until(&mut watch, "the instance", |set| set.instances.len() == 1).await;
}

#[tokio::test]
async fn a_restarted_discoverd_goes_on_with_its_lease_and_its_watchers_see_nothing_of_it() {
    let etcd = Etcd::start().await;
    let state = tempfile::tempdir().unwrap();
    let options = Options { state_dir: Some(state.path()), ..Options::new(&etcd) };
    let daemon = options.start().await;
    daemon.until_it_takes_writes().await;
    let client = daemon.client();
    client.register_for_host("web", &instance(1)).await.unwrap();
    client.register("web", &instance(2)).await.unwrap();
    let mut watch = client.watch("web");
    let before =
        until(&mut watch, "two", |set| set.instances.len() == 2 && set.leader.is_some()).await;
    let noted = std::fs::read(state.path().join("lease.json")).unwrap();

    let port = daemon.addr.port();
    daemon.end().await;
    until(&mut watch, "the break", |set| set.stale).await;
    assert_eq!(watch.borrow().instances, before.instances, "the last answer stands");
    let daemon = Options { port, ..options }.start().await;
    let after = until(&mut watch, "the return", |set| !set.stale).await;
    assert_eq!(after.instances, before.instances);
    assert_eq!(after.leader.as_ref().unwrap().term, before.leader.as_ref().unwrap().term);
    // Longer than the lease would last without renewal: the silent one ends, the other stays.
    until(&mut watch, "the silent one ends", |set| set.instances.len() == 1).await;
    assert_eq!(addrs(&watch.borrow()), ["10.0.0.1:8080"]);
    assert_eq!(std::fs::read(state.path().join("lease.json")).unwrap(), noted);
    assert_eq!(daemon.client().instances("web").await.unwrap().len(), 1);
}

#[tokio::test]
async fn after_a_boot_nothing_of_the_time_before_is_left() {
    let etcd = Etcd::start().await;
    let state = tempfile::tempdir().unwrap();
    let options = Options { state_dir: Some(state.path()), ..Options::new(&etcd) };
    let daemon = options.start().await;
    daemon.until_it_takes_writes().await;
    daemon.client().register_for_host("web", &instance(1)).await.unwrap();
    let other = Daemon::start(&etcd).await;
    other.client().register_for_host("web", &instance(2)).await.unwrap();
    let mut watch = other.client().watch("web");
    until(&mut watch, "both", |set| set.instances.len() == 2).await;
    let port = daemon.addr.port();
    daemon.end().await;

    let daemon = Options { boot_id: "boot 2", port, ..options }.start().await;
    daemon.until_it_takes_writes().await;
    let set = until(&mut watch, "one is gone", |set| set.instances.len() == 1).await;
    assert_eq!(addrs(&set), ["10.0.0.2:8080"]);
    assert!(set.suspects.is_empty(), "a host that booted has nothing left alive");
}

#[tokio::test]
async fn everything_held_is_registered_again_when_the_lease_is_lost() {
    let etcd = Etcd::start().await;
    let state = tempfile::tempdir().unwrap();
    let options = Options { state_dir: Some(state.path()), ..Options::new(&etcd) };
    let daemon = options.start().await;
    daemon.until_it_takes_writes().await;
    let client = daemon.client();
    client.register_for_host("web", &instance(1)).await.unwrap();
    let mut watch = client.watch("web");
    let before = until(&mut watch, "one", |set| set.leader.is_some()).await;

    let noted: serde_json::Value =
        serde_json::from_slice(&std::fs::read(state.path().join("lease.json")).unwrap()).unwrap();
    let lease = noted["lease"].as_str().unwrap().parse().unwrap();
    let keyspace = keyspace::Keyspace::connect(&[etcd.url()]).await.unwrap();
    keyspace.revoke(lease).await.unwrap();
    let index = before.instances[&instance(1).id].index;
    let after = until(&mut watch, "it is registered again", |set| {
        let one = set.instances.get(&instance(1).id);
        one.is_some_and(|one| one.index > index) && set.leader.is_some()
    })
    .await;
    assert!(after.leader.as_ref().unwrap().term > before.leader.as_ref().unwrap().term);
}

#[tokio::test]
async fn a_withdrawal_while_etcd_is_away_is_carried_out_when_it_returns() {
    let mut etcd = Etcd::start().await;
    let daemon = Daemon::start(&etcd).await;
    let client = daemon.client();
    client.register_for_host("web", &instance(1)).await.unwrap();
    client.register_for_host("web", &instance(2)).await.unwrap();
    let mut watch = client.watch("web");
    until(&mut watch, "two", |set| set.instances.len() == 2).await;
    etcd.kill();
    let path = format!("/services/web/instances/{}", instance(1).id);
    let once = client.client().without_retries();
    once.delete::<serde_json::Value>(&path).await.unwrap_err();
    etcd.restart().await;
    let set = until(&mut watch, "the withdrawal", |set| set.instances.len() == 1).await;
    assert_eq!(addrs(&set), ["10.0.0.2:8080"]);
}

#[tokio::test]
async fn a_frozen_etcd_makes_reads_stale_and_ends_nobody_who_beats() {
    let etcd = Etcd::start().await;
    let daemon = Daemon::start(&etcd).await;
    let client = daemon.client();
    let _beating = client.heartbeat("web", instance(1)).await.unwrap();
    etcd.freeze();
    wait_until("reads say that they are stale", async || {
        let answer = raw_get(&daemon, "/services/web/instances").await;
        if answer.to_lowercase().contains("discoverd-stale: true") { Ok(()) } else { Err(answer) }
    })
    .await;
    etcd.thaw();
    wait_until("reads are fresh and complete", async || {
        let answer = raw_get(&daemon, "/services/web/instances").await;
        let stale = answer.to_lowercase().contains("discoverd-stale: true");
        if !stale && answer.contains("10.0.0.1:8080") { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_cut_off() {
    let etcd = Etcd::start().await;
    let daemon = Daemon::start(&etcd).await;
    let client = daemon.client();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut slow = socket.connect(daemon.addr).await.unwrap();
    slow.write_all(b"GET /services/web HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut quick = client.watch("web");
    let mut one = instance(1);
    let mut last = 0;
    // Far more than the backlog and all buffers of the connection take.
    for n in 0..900 {
        one.meta.insert("large".into(), format!("{n:016000}"));
        last = client.register_for_host("web", &one).await.unwrap().revision;
    }
    until(&mut quick, "everything", |set| set.revision >= last).await;
    let mut read = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(30), slow.read_to_end(&mut read)).await;
    ended.expect("the server ends the stream").unwrap();
    let read = String::from_utf8_lossy(&read);
    assert!(read.contains("event: error"), "it ends with {:?}", &read[read.len() - 200..]);
    assert!(!read.contains(&format!("{:016000}", 899)), "it was not buffered to the end");
}

/// An answer as it comes, with its head; no retries.
async fn raw_get(daemon: &Daemon, path: &str) -> String {
    let mut stream = TcpStream::connect(daemon.addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
