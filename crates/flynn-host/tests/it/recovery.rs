//! A recovery of etcd that did not come to its end.

use std::{fs, net::SocketAddr};

use daemon::{Lifetime, relay::relay};
use keyspace::Transaction;
use serde_json::{Value, json};
use testkit::{free_port, wait_until_for};
use tokio::net::{TcpListener, TcpStream};
use tunnel::{Service, accept};

use crate::support::{Fixture, LIMIT, identity};

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_was_interrupted_is_given_up_when_etcd_has_its_quorum_again() {
    let mut host = Fixture::start_several().await;
    let folder = host.dir.path().join("host");
    let read = |name: &str| {
        let text = fs::read(folder.join(name)).map_err(|err| err.to_string())?;
        serde_json::from_slice::<Value>(&text).map_err(|err| err.to_string())
    };
    let before = read("etcd.json").unwrap();
    host.stop_daemon().await;
    // Its power failed while the member was being made.
    let pending = json!({ "stage": "restoring", "before": before });
    fs::write(folder.join("recovery.json"), pending.to_string()).unwrap();
    fs::write(folder.join("etcd.json"), json!({ "role": "restoring" }).to_string()).unwrap();
    host.start_daemon().await;
    wait_until_for(LIMIT, "the recovery is given up", async || {
        match folder.join("recovery.json").exists() {
            true => Err(read("etcd.json")),
            false => Ok(()),
        }
    })
    .await;
    assert_eq!(read("etcd.json").unwrap(), before, "it is the member that it was");
}

/// A host at whose tunnel etcd is reached only from the third time on. Until then it is away; without one it listens, and
/// says nothing.
async fn other_host(host: &Fixture, etcd: Option<SocketAddr>, lifetime: &Lifetime) -> SocketAddr {
    let id = identity(host, "other");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, tasks) = (listener.local_addr().unwrap(), lifetime.clone());
    lifetime.spawn("other host", move |stop| async move {
        let (mut times, mut silent) = (0, Vec::new());
        while let Some(Ok((stream, peer))) = stop.run_until_cancelled(listener.accept()).await {
            let Ok(accepted) = accept(stream, peer, &id).await else { continue };
            times += u32::from(accepted.service == Service::Etcd);
            let Some(etcd) = etcd else {
                silent.push(accepted.stream);
                continue;
            };
            if accepted.service == Service::Etcd && times > 2 {
                let local = TcpStream::connect(etcd).await.unwrap();
                tasks.spawn_request(async move { relay(accepted.stream, local).await.await });
            }
        }
    });
    addr
}

fn read(host: &Fixture, name: &str) -> Result<Value, String> {
    let path = host.dir.path().join("host").join(name);
    serde_json::from_slice(&fs::read(path).map_err(|err| err.to_string())?)
        .map_err(|err| err.to_string())
}

/// Leaves what a daemon does that has put the member it made in its place. Answers what the host was before.
async fn leave_restored(host: &Fixture, other: SocketAddr, learner: bool) -> Value {
    let data = host.dir.path();
    let write = |name: &str, value: &Value| {
        fs::write(data.join("host").join(name), value.to_string()).unwrap();
    };
    let before = read(host, "etcd.json").unwrap();
    let record = json!({
        "addr": "127.0.0.1", "tunnel_port": other.port(), "joined_at": "2026-01-02T03:04:05Z",
    });
    let url = "https://127.0.0.1:9";
    let member = |id: &str, learner| json!({ "host": id, "peer_url": url, "learner": learner });
    let members = json!([member(&host.prefix, false), member("other", learner)]);
    let keyspace = host.keyspace().await;
    let put = Transaction::new()
        .put("/flynn/hosts/other", record.to_string())
        .put("/flynn/etcd-members", members.to_string());
    keyspace.commit(put).await.unwrap();
    let mut grid = read(host, "grid.json").unwrap();
    grid["hosts"]["other"] = record;
    grid["members"] = json!([member(&host.prefix, false)]);
    write("grid.json", &grid);
    let alone = format!("{}={url}", host.prefix);
    write("etcd.json", &json!({ "role": "member", "cluster": alone, "joined": false }));
    write("recovery.json", &json!({ "stage": "restored", "before": before, "members": members }));
    for (folder, file) in [("etcd", "made"), ("etcd.aside", "kept")] {
        fs::create_dir_all(data.join(folder)).unwrap();
        fs::write(data.join(folder).join(file), file).unwrap();
    }
    before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_made_anew_that_does_not_serve_yet_gives_way_to_those_that_come_back() {
    give_way(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_made_anew_gives_way_also_if_only_a_learner_tells_that_the_others_serve() {
    give_way(true).await;
}

async fn give_way(learner: bool) {
    let mut host = Fixture::start_several().await;
    host.stop_daemon().await;
    let etcd = host.etcd().url().strip_prefix("http://").unwrap().parse().unwrap();
    let lifetime = Lifetime::default();
    // The other members have etcd; the one that was made here has taken its place, and does not come up.
    let other = other_host(&host, Some(etcd), &lifetime).await;
    host.config.etcd_member_port = free_port();
    let before = leave_restored(&host, other, learner).await;
    host.start_daemon().await;
    let data = host.dir.path();
    wait_until_for(LIMIT, "the recovery is given up", async || {
        match data.join("host/recovery.json").exists() {
            true => Err(read(&host, "recovery.json")),
            false => Ok(()),
        }
    })
    .await;
    assert_eq!(read(&host, "etcd.json").unwrap(), before, "it is the member that it was");
    assert!(data.join("etcd/kept").exists(), "with what it had");
    for gone in ["etcd/made", "etcd.aside", "etcd.restored"] {
        assert!(!data.join(gone).exists(), "{gone}");
    }
    lifetime.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_made_anew_goes_on_alone_when_it_serves_and_the_others_do_not() {
    let mut host = Fixture::start_several().await;
    host.stop_daemon().await;
    let lifetime = Lifetime::default();
    let other = other_host(&host, None, &lifetime).await;
    leave_restored(&host, other, false).await;
    host.start_daemon().await;
    wait_until_for(LIMIT, "the others are to be told", async || {
        let pending = read(&host, "recovery.json")?;
        if pending["stage"] == "telling" { Ok(()) } else { Err(pending.to_string()) }
    })
    .await;
    assert_eq!(read(&host, "etcd.json").unwrap()["joined"], false, "it began a cluster");
    assert!(host.dir.path().join("etcd.aside/kept").exists(), "what it had is kept");
    lifetime.end();
}
