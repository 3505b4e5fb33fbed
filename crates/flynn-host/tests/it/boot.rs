//! A host that starts, whatever is there of its cluster.

use std::time::Duration;

use api::host::Status;
use serde_json::json;
use testkit::{free_port, wait_until_for};
use tokio::time::timeout;

use crate::support::{Fixture, IMAGE, LIMIT, docker, is, shell};

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

#[tokio::test(flavor = "multi_thread")]
async fn its_status_tells_whether_its_engine_and_discoverd_answer_and_that_names_it() {
    let sockets = tempfile::tempdir().unwrap();
    let socket = sockets.path().join("docker.sock");
    std::os::unix::fs::symlink("/var/run/docker.sock", &socket).unwrap();
    let host = Fixture::start_with(|config| config.docker_socket.clone_from(&socket)).await;
    let told = async |code: u16, word: &str| {
        let ready = format!("its status is {code}: {word}");
        wait_until_for(LIMIT, &ready, async || {
            let url = format!("{}/.well-known/status", host.url());
            let answer = reqwest::get(url).await.map_err(|err| err.to_string())?;
            let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
            if status == code && text.contains(word) { Ok(()) } else { Err(text) }
        })
        .await;
    };
    told(200, "healthy").await;
    let held = host.discoverd.hold().await;
    for instance in host.discoverd.instances("flynn-host") {
        host.discoverd.take("flynn-host", instance);
    }
    told(500, "does not name this host").await;
    drop(held);
    told(200, "healthy").await;
    std::fs::remove_file(&socket).unwrap();
    told(500, "engine does not answer").await;
    std::os::unix::fs::symlink("/var/run/docker.sock", &socket).unwrap();
    told(200, "healthy").await;
    host.discoverd.end();
    told(500, "discoverd does not answer").await;
}
