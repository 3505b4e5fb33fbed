//! Who may ask etcd on a host.

use api::host::Status;
use serde_json::json;
use testkit::wait_until_for;

use crate::support::{Fixture, LIMIT, ended, image_with, run, shell, shell_with};

#[tokio::test(flavor = "multi_thread")]
async fn etcd_is_asked_by_the_hosts_own_daemons_and_by_no_other_process() {
    let host = Fixture::start().await;
    let port = host.etcd().url().rsplit(':').next().unwrap().to_owned();
    wait_until_for(LIMIT, "the host has said who may ask etcd", async || {
        let rules = run("iptables", &["-w", "10", "-S", "OUTPUT"]);
        if rules.contains(&format!("{}-LO", host.config.chain)) { Ok(()) } else { Err(rules) }
    })
    .await;
    let line = format!(
        "id -u; nc -w 2 127.0.0.1 {port} </dev/null >/dev/null 2>&1 && echo asks || echo is refused"
    );
    let said = async |resurrect: bool| {
        let mut job =
            shell_with(&format!("{line}; exec sleep 1000"), json!({ "host_network": true }));
        job.resurrect = resurrect;
        host.client().put_job(&job).await.unwrap();
        let log = wait_until_for(LIMIT, "the job has tried", async || {
            let log = host.log(job.id, None, false).await;
            if log.len() >= 2 { Ok(log) } else { Err(log) }
        })
        .await;
        host.client().stop_job(job.id).await.unwrap();
        host.wait(job.id, ended).await;
        log.into_iter().map(|(_, msg)| msg).collect::<Vec<_>>()
    };
    // An app's job on the host's network, and the platform's: the router.
    assert_eq!(said(false).await, ["1000", "is refused"]);
    assert_eq!(said(true).await, ["1048574", "asks"]);
    assert!(host.keyspace().await.get("/").await.is_ok(), "this process is root");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_asks_for_a_caller_runs_nothing_by_whatever_name() {
    let host = Fixture::start().await;
    let users = "root:x:0:0::/:/bin/sh\nsly:x:1048575:5::/:/bin/sh\nweb:x:1001:5::/:/bin/sh\n";
    let said = async |user: &str| {
        let mut job = shell("id -u");
        job.image = image_with(&host, users, user);
        let done = host.run(&job, ended).await;
        let log = host.log(job.id, None, false).await;
        (done.status, log.into_iter().map(|(_, msg)| msg).collect::<Vec<_>>())
    };
    for user in ["sly", "1048574"] {
        assert_eq!(said(user).await, (Status::Failed, Vec::new()), "{user}");
    }
    assert_eq!(said("web").await, (Status::Done, vec!["1001".to_owned()]));
}
