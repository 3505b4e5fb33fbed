//! What is done when nobody is left who would schedule.

use api::host::{Job, Status, Volume};
use serde_json::json;
use testkit::wait_until_for;

use crate::support::{Fixture, LIMIT, ended, is, web};

/// A process that serves as `service`, with a secret.
fn serving(service: &str) -> Job {
    let mut job = web(json!({ "type": "http", "path": "/", "status": 200 }));
    job.config.ports[0].service.as_mut().unwrap().name = service.into();
    job.config.env.insert("AUTH_KEY".into(), "s3cret".into());
    job.resurrect = true;
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_nobody_starts_again_is_started_by_the_leading_host() {
    let host = Fixture::start().await;
    let etcd = host.keyspace().await;
    let (controller, mut other) = (serving("controller"), serving("controller-scheduler"));
    other.config.volumes.push(Volume {
        name: "critical-test".into(),
        path: "/data".into(),
        shared: false,
    });
    host.run(&controller, is(Status::Running)).await;
    host.run(&other, is(Status::Running)).await;
    let kept = wait_until_for(LIMIT, "the controller's spec is kept", || async {
        etcd.get("/flynn/critical/controller").await.unwrap().ok_or("there is no such key")
    })
    .await;
    assert!(!kept.value.windows(6).any(|part| part == b"s3cret"), "it is sealed");
    let client = host.client();
    client.stop_job(controller.id).await.unwrap();
    client.stop_job(other.id).await.unwrap();
    assert_eq!(host.wait(controller.id, ended).await.status, Status::Done);
    let instance = wait_until_for(LIMIT, "another one serves", || async {
        host.discoverd.instances("controller").pop().ok_or("there is no instance")
    })
    .await;
    let id = instance.meta["FLYNN_JOB_ID"].parse().unwrap();
    let stand_in = host.wait(id, is(Status::Running)).await;
    let mut expected = Job { id, ..controller };
    expected.metadata.insert("flynn-host.stand-in".into(), "controller".into());
    assert_eq!(stand_in.job, expected);
    // What has data is neither kept nor started without it.
    assert_eq!(etcd.get("/flynn/critical/controller-scheduler").await.unwrap(), None);
    assert!(host.discoverd.instances("controller-scheduler").is_empty());
    let active = client.jobs().await.unwrap();
    assert_eq!(active.values().filter(|job| job.status.is_active()).count(), 1, "{active:?}");
}
