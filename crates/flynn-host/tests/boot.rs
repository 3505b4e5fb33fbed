//! A host that starts, whatever is there of its cluster.

#![expect(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod support;

use std::time::Duration;

use api::host::Status;
use serde_json::json;
use support::{Fixture, IMAGE, docker, is, shell};
use testkit::free_port;
use tokio::time::timeout;

/// Below the minute for which a daemon waits for what it cannot do without.
const AT_ONCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_keeps_running_does_not_wait_for_etcd() {
    let mut host = Fixture::start().await;
    let mut job = shell("sleep 1000");
    job.resurrect = true;
    host.run(&job, is(Status::Running)).await;
    host.stop_daemon().await;
    docker(&["rm", "-f", &format!("{}-job-{}", host.prefix, job.id)]);
    // Of several hosts this one is up alone: its member runs and has nobody to elect it.
    host.etcd().freeze();
    let manifest = json!([{
        "id": "etcd", "image": IMAGE, "args": ["sleep", "1000"],
        "ready": format!("http://127.0.0.1:{}/health", free_port()),
    }]);
    let path = host.dir.path().join("manifest.json");
    std::fs::write(&path, manifest.to_string()).unwrap();
    host.config.manifest = Some(path);
    host.config.no_layer0 = false;
    timeout(AT_ONCE, host.start_daemon()).await.expect("it starts without etcd");
    host.wait(job.id, is(Status::Running)).await;
    let etcd = docker(&["inspect", "-f", "{{.Config.User}}", &format!("{}-etcd", host.prefix)]);
    assert_eq!(etcd.trim(), "1048575:1048575", "layer 0 has a user of its own");
    host.etcd().thaw();
}
