//! A recovery of etcd that did not come to its end.

#![expect(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod support;

use std::{fs, net::SocketAddr};

use daemon::{Lifetime, relay::relay};
use keyspace::Transaction;
use serde_json::{Value, json};
use support::{Fixture, LIMIT, identity};
use testkit::{free_port, wait_until_for};
use tokio::net::{TcpListener, TcpStream};
use tunnel::{Service, accept};

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

/// A host at whose tunnel etcd is reached only from the third time on. Until then it is away.
async fn host_that_comes_back(host: &Fixture, etcd: SocketAddr, lifetime: &Lifetime) -> SocketAddr {
    let id = identity(host, "other");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, tasks) = (listener.local_addr().unwrap(), lifetime.clone());
    lifetime.spawn("other host", move |stop| async move {
        let mut times = 0;
        while let Some(Ok((stream, peer))) = stop.run_until_cancelled(listener.accept()).await {
            let Ok(accepted) = accept(stream, peer, &id).await else { continue };
            times += u32::from(accepted.service == Service::Etcd);
            if accepted.service == Service::Etcd && times > 2 {
                let local = TcpStream::connect(etcd).await.unwrap();
                tasks.spawn_request(async move { relay(accepted.stream, local).await.await });
            }
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_made_anew_that_does_not_serve_yet_gives_way_to_those_that_come_back() {
    let mut host = Fixture::start_several().await;
    let data = host.dir.path().to_owned();
    let read = |name: &str| {
        let text = fs::read(data.join("host").join(name)).map_err(|err| err.to_string())?;
        serde_json::from_slice::<Value>(&text).map_err(|err| err.to_string())
    };
    let write = |name: &str, value: &Value| {
        fs::write(data.join("host").join(name), value.to_string()).unwrap();
    };
    let before = read("etcd.json").unwrap();
    host.stop_daemon().await;
    let etcd = host.etcd().url().strip_prefix("http://").unwrap().parse().unwrap();
    let lifetime = Lifetime::default();
    let other = host_that_comes_back(&host, etcd, &lifetime).await;
    // The other members have etcd; the one that was made here has taken its place, and does not come up.
    host.config.etcd_member_port = free_port();
    let record = json!({
        "addr": "127.0.0.1", "tunnel_port": other.port(), "joined_at": "2026-01-02T03:04:05Z",
    });
    let member = |id: &str| json!({ "host": id, "peer_url": "https://127.0.0.1:9" });
    let members = json!([member(&host.prefix), member("other")]);
    let keyspace = host.keyspace().await;
    let put = Transaction::new()
        .put("/flynn/hosts/other", record.to_string())
        .put("/flynn/etcd-members", members.to_string());
    keyspace.commit(put).await.unwrap();
    let mut grid = read("grid.json").unwrap();
    grid["hosts"]["other"] = record;
    grid["members"] = json!([member(&host.prefix)]);
    write("grid.json", &grid);
    let alone = format!("{}=https://127.0.0.1:9", host.prefix);
    write("etcd.json", &json!({ "role": "member", "cluster": alone, "joined": false }));
    write("recovery.json", &json!({ "stage": "restored", "before": before, "members": members }));
    for (folder, file) in [("etcd", "made"), ("etcd.aside", "kept")] {
        fs::create_dir_all(data.join(folder)).unwrap();
        fs::write(data.join(folder).join(file), file).unwrap();
    }
    host.start_daemon().await;
    wait_until_for(LIMIT, "the recovery is given up", async || {
        match data.join("host/recovery.json").exists() {
            true => Err(read("recovery.json")),
            false => Ok(()),
        }
    })
    .await;
    assert_eq!(read("etcd.json").unwrap(), before, "it is the member that it was");
    assert!(data.join("etcd/kept").exists(), "with what it had");
    for gone in ["etcd/made", "etcd.aside", "etcd.restored"] {
        assert!(!data.join(gone).exists(), "{gone}");
    }
    lifetime.end();
}
