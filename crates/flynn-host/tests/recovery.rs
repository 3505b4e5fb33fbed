//! A recovery of etcd that did not come to its end.

#![expect(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod support;

use serde_json::{Value, json};
use support::{Fixture, LIMIT};
use testkit::wait_until_for;

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_was_interrupted_is_given_up_when_etcd_has_its_quorum_again() {
    let mut host = Fixture::start_several().await;
    let folder = host.dir.path().join("host");
    let read = |name: &str| {
        let text = std::fs::read(folder.join(name)).map_err(|err| err.to_string())?;
        serde_json::from_slice::<Value>(&text).map_err(|err| err.to_string())
    };
    let before = read("etcd.json").unwrap();
    host.stop_daemon().await;
    // Its power failed while the member was being made.
    let pending = json!({ "stage": "restoring", "before": before });
    std::fs::write(folder.join("recovery.json"), pending.to_string()).unwrap();
    std::fs::write(folder.join("etcd.json"), json!({ "role": "restoring" }).to_string()).unwrap();
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
