//! The daemon as a process, killed at any moment.

use std::{path::Path, process::Stdio, time::Duration};

use discoverd_client::Discoverd;
use testkit::{Etcd, wait_until};
use tokio::process::{Child, Command};

use crate::support::{KEY, instance, until};

struct Place<'a> {
    etcd: &'a Etcd,
    dir: &'a Path,
    port: u16,
}

impl Place<'_> {
    fn spawn(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_discoverd"))
            .env("ETCD", self.etcd.url())
            .env("DISCOVERD_KEY", KEY)
            .env("LISTEN", format!("127.0.0.1:{}", self.port))
            .env("STATE_DIR", self.dir.join("state"))
            .env("BOOT_ID_FILE", self.dir.join("boot_id"))
            .env("HOST_ID", "host1")
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    fn client(&self) -> Discoverd {
        Discoverd::new(&format!("http://127.0.0.1:{}", self.port), Some(KEY.into()))
    }
}

#[tokio::test]
async fn killed_at_any_moment_it_loses_no_instance_and_a_boot_takes_them_all() {
    let etcd = Etcd::start().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("boot_id"), "one\n").unwrap();
    let place = Place { etcd: &etcd, dir: dir.path(), port: testkit::free_port() };
    let client = place.client();
    let mut daemon = place.spawn();
    wait_until("discoverd takes writes", async || {
        client.register_for_host("web", &instance(1)).await
    })
    .await;
    let mut watch = client.watch("web");
    let set = until(&mut watch, "the instance", |set| set.leader.is_some()).await;
    let (index, leader) = (set.instances[&instance(1).id].index, set.leader.clone());

    for n in 0..12 {
        daemon.kill().await.unwrap();
        daemon = place.spawn();
        // Every kill comes a little later in its life.
        let life = Duration::from_millis(n * n);
        assert!(tokio::time::timeout(life, daemon.wait()).await.is_err(), "it ended by itself");
    }
    wait_until("discoverd takes writes again", async || {
        client.register_for_host("web", &instance(2)).await
    })
    .await;
    let set = until(&mut watch, "both", |set| set.instances.len() == 2 && !set.stale).await;
    assert_eq!(set.instances[&instance(1).id].index, index, "it was never gone");
    assert_eq!(set.leader, leader);

    std::fs::write(dir.path().join("boot_id"), "two\n").unwrap();
    daemon.kill().await.unwrap();
    let _daemon = place.spawn();
    wait_until("discoverd takes writes after the boot", async || {
        client.register_for_host("web", &instance(3)).await
    })
    .await;
    let only = client.instances("web").await.unwrap();
    assert_eq!(only.iter().map(|one| &one.addr).collect::<Vec<_>>(), [&instance(3).addr]);
}
