//! Replacement in place, on the real engine: what takes a place has it for good only once it is healthy.

use api::{
    error::ErrorCode,
    host::{ActiveJob, EndReason, Job, Status},
};
use serde_json::json;

use crate::support::{Fixture, docker, ended, is, shell_with};

/// Serves as `db` and says in its log if another writes to its folder at the same time.
const SERVER: &str = "mkdir /data/lock || echo two writers; \
    trap 'rmdir /data/lock; kill $!; exit 0' TERM; httpd -f -p $PORT -h /www & wait";

fn keeper(line: &str, volumes: bool) -> Job {
    let check =
        json!({ "type": "http", "path": "/", "status": 200, "start_timeout": 4_000_000_000_u64 });
    let port = json!({ "port": 8080, "service": { "name": "db", "check": check } });
    let volume = json!({ "name": "db-data", "path": "/data" });
    let volumes = if volumes { vec![volume] } else { vec![] };
    let mut job = shell_with(line, json!({ "ports": [port], "volumes": volumes }));
    job.resurrect = true;
    job
}

fn instead_of(old: &Job, line: &str) -> Job {
    let mut new = keeper(line, !old.config.volumes.is_empty());
    new.replaces = Some(old.id);
    new
}

async fn serves_alone(host: &Fixture, job: &ActiveJob) {
    let instances = host.discoverd.instances("db");
    let ids: Vec<_> = instances.iter().map(|one| one.meta["FLYNN_JOB_ID"].clone()).collect();
    assert_eq!(ids, [job.job.id.to_string()]);
    let log = host.log(job.job.id, None, false).await;
    assert!(!log.iter().any(|(_, line)| line.contains("two writers")), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_shares_a_volume_takes_turns_and_the_healthy_one_stays() {
    let host = Fixture::start().await;
    let old = keeper(SERVER, true);
    host.run(&old, is(Status::Running)).await;
    let new = instead_of(&old, SERVER);
    host.client().put_job(&new).await.unwrap();
    host.client().put_job(&new).await.unwrap();
    let gone = host.wait(old.id, ended).await;
    assert_eq!((gone.status, gone.end_reason), (Status::Done, Some(EndReason::Stopped)));
    let stays = host.wait(new.id, is(Status::Running)).await;
    serves_alone(&host, &stays).await;
    // From now on it is restarted as any other.
    docker(&["kill", "-s", "KILL", &stays.container_id]);
    host.wait(new.id, |job| job.host_restarts == 1 && job.status == Status::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_healthy_leaves_the_place_again_and_says_why() {
    let host = Fixture::start().await;
    for volumes in [true, false] {
        let line = if volumes { SERVER } else { "exec httpd -f -p $PORT -h /www" };
        let old = keeper(line, volumes);
        let before = host.run(&old, is(Status::Running)).await;
        let bad = [
            (instead_of(&old, "echo bad setting; exit 3"), EndReason::Exited),
            (instead_of(&old, "exec sleep 1000"), EndReason::CheckNeverPassed),
            (
                Job { image: "flynn/nowhere".into(), ..instead_of(&old, SERVER) },
                EndReason::NotStarted,
            ),
        ];
        for (new, reason) in bad {
            let untouched = host.client().job(old.id).await.unwrap();
            let left = host.run(&new, ended).await;
            assert_eq!((left.end_reason, left.host_restarts), (Some(reason), 0));
            let back = host.wait(old.id, is(Status::Running)).await;
            serves_alone(&host, &back).await;
            if !volumes || reason == EndReason::NotStarted {
                assert_eq!(back.container_id, untouched.container_id, "it never stopped");
            }
            assert_eq!((back.host_restarts, back.internal_ip), (0, before.internal_ip));
        }
        host.client().stop_job(old.id).await.unwrap();
        host.wait(old.id, ended).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_meanwhile_finishes_or_goes_back_when_it_starts() {
    let mut host = Fixture::start().await;
    let old = keeper(SERVER, true);
    host.run(&old, is(Status::Running)).await;
    let bad = instead_of(&old, "exec sleep 1000");
    host.run(&bad, |job| job.started_at.is_some()).await;
    host.stop_daemon().await;
    host.start_daemon().await;
    let resting = host.client().job(old.id).await.unwrap();
    assert_eq!((resting.status, resting.container_id), (Status::Starting, String::new()));
    let left = host.wait(bad.id, ended).await;
    assert_eq!(left.end_reason, Some(EndReason::CheckNeverPassed));
    let back = host.wait(old.id, is(Status::Running)).await;
    serves_alone(&host, &back).await;

    let late = instead_of(&old, &format!("sleep 2; {SERVER}"));
    host.run(&late, |job| job.started_at.is_some()).await;
    host.stop_daemon().await;
    host.start_daemon().await;
    assert_eq!(host.wait(old.id, ended).await.status, Status::Done);
    serves_alone(&host, &host.client().job(late.id).await.unwrap()).await;

    // The one on trial died while nobody looked.
    let worse = instead_of(&late, "exec sleep 1000");
    let died = host.run(&worse, |job| job.started_at.is_some()).await;
    host.stop_daemon().await;
    docker(&["rm", "-f", &died.container_id]);
    host.start_daemon().await;
    assert!(host.wait(worse.id, ended).await.end_reason.is_some());
    let back = host.wait(late.id, is(Status::Running)).await;
    serves_alone(&host, &back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_taken_from_a_job_that_has_one_by_one_job_at_a_time() {
    let host = Fixture::start().await;
    let refused = async |job: &Job| {
        let err = host.client().put_job(job).await.unwrap_err();
        assert_eq!(err.code(), Some(ErrorCode::ValidationError), "{err}");
    };
    let old = keeper(SERVER, true);
    refused(&instead_of(&old, SERVER)).await;
    let mut itself = keeper(SERVER, true);
    itself.replaces = Some(itself.id);
    refused(&itself).await;
    host.run(&old, is(Status::Running)).await;
    let first = instead_of(&old, "exec sleep 1000");
    host.run(&first, |job| job.started_at.is_some()).await;
    refused(&instead_of(&old, SERVER)).await;
    // Who gives up the attempt gives the place back.
    host.client().stop_job(first.id).await.unwrap();
    assert_eq!(host.wait(first.id, ended).await.end_reason, Some(EndReason::Stopped));
    host.wait(old.id, is(Status::Running)).await;
    // Who stops the one that rests means the place to be the other's.
    let second = instead_of(&old, &format!("sleep 1; {SERVER}"));
    host.run(&second, |job| job.started_at.is_some()).await;
    host.client().stop_job(old.id).await.unwrap();
    host.wait(old.id, ended).await;
    host.wait(second.id, is(Status::Running)).await;
}
