//! The scheduler in process, among neighbours that are faked on the wire.

#![expect(clippy::unwrap_used, reason = "a failed helper fails its test")]

mod fake;

use std::time::{Duration, Instant};

use api::{
    controller::{Job, JobState},
    host::Status,
    id::JobId,
};
use fake::Cluster;
use testkit::wait_until;

/// Waits until so many jobs serve.
async fn up(cluster: &Cluster, count: usize) -> Vec<JobId> {
    wait_until(&format!("{count} jobs serve"), async || {
        let up = cluster.host.up();
        if up.len() == count { Ok(up) } else { Err(up) }
    })
    .await
}

/// Waits until the controller was told of a job in this state, and gives it.
async fn told(cluster: &Cluster, what: &str, so: impl Fn(&Job) -> bool) -> Job {
    wait_until(what, async || {
        let told = cluster.controller.told();
        told.iter().rfind(|job| so(job)).cloned().ok_or(told)
    })
    .await
}

#[tokio::test]
async fn a_formation_is_brought_up_scaled_and_stopped() {
    let cluster = Cluster::start().await;
    let _scheduler = cluster.leading_scheduler().await;
    cluster.controller.scale(1, 3);
    up(&cluster, 3).await;
    told(&cluster, "three jobs are up", |_| cluster.controller.in_state(JobState::Up).len() == 3)
        .await;
    cluster.controller.scale(1, 1);
    up(&cluster, 1).await;
    told(&cluster, "two jobs are down", |_| cluster.controller.in_state(JobState::Down).len() == 2)
        .await;
    cluster.controller.scale(1, 0);
    up(&cluster, 0).await;
    assert_eq!(cluster.host.all().len(), 3, "nothing was started that nobody wanted");
}

#[tokio::test]
async fn a_killed_job_is_replaced_as_soon_as_its_host_tells_of_it() {
    let cluster = Cluster::start().await;
    let _scheduler = cluster.leading_scheduler().await;
    cluster.controller.scale(1, 2);
    let before = up(&cluster, 2).await;
    let killed_at = Instant::now();
    cluster.host.kill(before[0], false);
    let after = up(&cluster, 2).await;
    let took = killed_at.elapsed();
    println!("replaced after {took:?}");
    assert!(took < Duration::from_secs(1), "by the event and not by the sweep: {took:?}");
    assert!(!after.contains(&before[0]) && after.contains(&before[1]));
    let crashed = told(&cluster, "the crash", |job| job.state == JobState::Crashed).await;
    assert_eq!((crashed.uuid, crashed.exit_status), (before[0], Some(137)));
    let new = after.into_iter().find(|id| *id != before[1]).unwrap();
    told(&cluster, "the replacement", |job| {
        job.uuid == new && job.state == JobState::Up && job.restarts == 1
    })
    .await;
}

#[tokio::test]
async fn a_crash_loop_backs_off_and_is_shown_as_such() {
    let cluster = Cluster::start().await;
    let _scheduler = cluster.leading_scheduler().await;
    cluster.host.set_crashing(true);
    cluster.controller.scale(1, 1);
    let waiting = told(&cluster, "the third attempt waits", |job| {
        job.state == JobState::Pending && job.restarts == 3
    })
    .await;
    let error = waiting.host_error.unwrap();
    assert!(error.contains("it ended 3 times, the last time with exit status 1"), "{error}");
    assert!(waiting.run_at.is_some());
    assert_eq!(waiting.id, waiting.uuid.to_string(), "it is on no host");
    assert!(cluster.host.all().len() <= 4, "{:?}", cluster.host.all());
    cluster.host.set_crashing(false);
    up(&cluster, 1).await;
}

#[tokio::test]
async fn what_has_no_room_is_pending_with_the_reason_until_there_is_room() {
    let cluster = Cluster::start().await;
    let _scheduler = cluster.leading_scheduler().await;
    cluster.controller.scale(1, 16);
    up(&cluster, 16).await;
    cluster.controller.scale(2, 1);
    let pending = told(&cluster, "it waits", |job| job.state == JobState::Pending).await;
    let reason = pending.host_error.unwrap();
    assert!(reason.contains("host0 has less than the 1024 MiB of memory free"), "{reason}");
    cluster.controller.scale(1, 15);
    told(&cluster, "it is up", |job| job.uuid == pending.uuid && job.state == JobState::Up).await;
}

#[tokio::test]
async fn a_pending_job_that_is_not_wanted_any_more_is_reported_down() {
    let cluster = Cluster::start().await;
    let _scheduler = cluster.leading_scheduler().await;
    cluster.controller.scale(1, 17);
    let pending = told(&cluster, "one waits", |job| job.state == JobState::Pending).await;
    cluster.controller.scale(1, 16);
    told(&cluster, "it is given up", |job| {
        job.uuid == pending.uuid && job.state == JobState::Down && job.host_error.is_none()
    })
    .await;
}

#[tokio::test]
async fn what_happened_while_the_streams_were_cut_is_made_up_for() {
    let cluster = Cluster::start().await;
    let _scheduler = cluster.leading_scheduler().await;
    cluster.controller.scale(1, 2);
    let before = up(&cluster, 2).await;
    cluster.host.kill(before[0], true);
    cluster.controller.scale_silently(1, 3);
    cluster.host.cut();
    cluster.controller.cut();
    assert!(!up(&cluster, 3).await.contains(&before[0]));
    told(&cluster, "the crash", |job| job.uuid == before[0] && job.state == JobState::Crashed)
        .await;
}

#[tokio::test]
async fn jobs_that_run_already_are_adopted_and_foreign_ones_left_alone() {
    let cluster = Cluster::start().await;
    let (known, foreign) = (cluster.host.adopt(1, false), cluster.host.adopt(9, false));
    cluster.controller.scale(1, 1);
    cluster.controller.scale(2, 1);
    let _scheduler = cluster.leading_scheduler().await;
    let up = up(&cluster, 3).await;
    assert!(up.contains(&known) && up.contains(&foreign));
    told(&cluster, "the adopted job", |job| job.uuid == known && job.state == JobState::Up).await;
    assert!(cluster.controller.job(foreign).is_none());
    assert_eq!(cluster.host.all().len(), 3);
}

#[tokio::test]
async fn a_job_that_its_host_resurrects_is_not_doubled() {
    let cluster = Cluster::start().await;
    let resurrected = cluster.host.adopt(1, true);
    cluster.controller.scale(1, 1);
    cluster.controller.scale(2, 1);
    let _scheduler = cluster.leading_scheduler().await;
    up(&cluster, 2).await;
    cluster.host.kill(resurrected, false);
    told(&cluster, "its end", |job| job.uuid == resurrected && job.state == JobState::Crashed)
        .await;
    // Something later that is done shows that the earlier was not.
    cluster.controller.scale(2, 2);
    up(&cluster, 2).await;
    assert_eq!(cluster.host.all().len(), 3);
}

#[tokio::test]
async fn only_the_leader_acts_and_a_deposed_one_is_not_obeyed() {
    let cluster = Cluster::start().await;
    let _first = cluster.leading_scheduler().await;
    let _second = cluster.scheduler("job-b").await;
    cluster.controller.scale(1, 2);
    up(&cluster, 2).await;
    assert_eq!(cluster.host.commits(), 1);
    told(&cluster, "both are up", |_| cluster.controller.in_state(JobState::Up).len() == 2).await;
    cluster.discoverd.lead("controller-scheduler", "job-b", 2);
    cluster.controller.scale(1, 4);
    up(&cluster, 4).await;
    assert_eq!(cluster.host.all().len(), 4);
    told(&cluster, "all are up", |_| cluster.controller.in_state(JobState::Up).len() == 4).await;
    let terms = [1, 2].map(|revision| fake::term(revision).to_header());
    assert_eq!(cluster.controller.terms(), terms, "each tells under its own");
}

#[tokio::test]
async fn a_host_that_answers_no_order_holds_up_no_other() {
    let cluster = Cluster::start().await;
    let slow = cluster.add_host("host1", 64).await;
    let _scheduler = cluster.leading_scheduler().await;
    slow.set_slow(true);
    // The freest host is asked first, and does not answer.
    cluster.controller.scale(1, 1);
    wait_until("it is asked", async || match cluster.host.commits() {
        0 => Err(()),
        _ => Ok(()),
    })
    .await;
    let begun = Instant::now();
    cluster.controller.scale(2, 2);
    up(&cluster, 2).await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    slow.set_slow(false);
    wait_until("the slow host has its own", async || match slow.up() {
        up if up.is_empty() => Err(up),
        _ => Ok(()),
    })
    .await;
}

#[tokio::test]
async fn a_host_that_refuses_does_not_attract_what_others_can_run() {
    let cluster = Cluster::start().await;
    let broken = cluster.add_host("host1", 64).await;
    let _scheduler = cluster.leading_scheduler().await;
    broken.set_deaf(true);
    for app in 1..=5 {
        cluster.controller.scale(app, 1);
    }
    up(&cluster, 5).await;
    let refused = broken.refusals();
    assert!(refused <= 5, "each is refused once at most: {refused}");
    cluster.controller.scale(6, 1);
    up(&cluster, 6).await;
    assert_eq!(broken.refusals(), refused, "it is known by now");
}

#[tokio::test]
async fn orders_that_a_host_does_not_take_are_given_again_later() {
    let cluster = Cluster::start().await;
    let _scheduler = cluster.leading_scheduler().await;
    cluster.host.set_deaf(true);
    cluster.controller.scale(1, 1);
    let crashed = told(&cluster, "why", |job| job.state == JobState::Crashed).await;
    assert_eq!(crashed.host_error.as_deref(), Some("the disk is full"));
    cluster.host.set_deaf(false);
    up(&cluster, 1).await;
}

#[tokio::test]
async fn a_new_scheduler_tells_only_what_changed_and_goes_on_where_the_old_one_was() {
    let cluster = Cluster::start().await;
    let first = cluster.leading_scheduler().await;
    cluster.host.set_crashing(true);
    cluster.controller.scale(1, 1);
    let waiting =
        told(&cluster, "it waits", |job| job.state == JobState::Pending && job.restarts == 3).await;
    first.drain(Duration::from_secs(5)).await.unwrap();
    cluster.host.set_crashing(false);
    let _second = cluster.scheduler("job-b").await;
    cluster.discoverd.lead("controller-scheduler", "job-b", 2);
    let up = up(&cluster, 1).await;
    let is_up = |job: &Job| job.uuid == up[0] && job.state == JobState::Up;
    let serving = told(&cluster, "it is up", is_up).await;
    assert_eq!(serving.restarts, waiting.restarts, "its back-off is known");
    let ends = |job: &&Job| job.state == JobState::Crashed;
    let ended = cluster.host.all().iter().filter(|job| job.status == Status::Crashed).count();
    assert_eq!(cluster.controller.told().iter().filter(ends).count(), ended, "each was told once");
}

#[tokio::test]
async fn a_job_that_no_host_knows_any_more_is_reported_gone() {
    let cluster = Cluster::start().await;
    let lost = JobId::random();
    let wanted = fake::formation(1, 0);
    cluster.controller.remember(
        serde_json::from_value(serde_json::json!({
            "id": format!("host7-{lost}"), "uuid": lost, "host_id": "host7", "app": wanted.app.id,
            "release": wanted.release.id, "type": "web", "state": "up",
        }))
        .unwrap(),
    );
    cluster.controller.scale(1, 0);
    let _scheduler = cluster.leading_scheduler().await;
    let gone = told(&cluster, "it is gone", |job| job.uuid == lost).await;
    assert_eq!(gone.state, JobState::Down);
    assert_eq!(gone.host_error.as_deref(), Some("host host7 is gone, or no longer knows the job"));
    let asked_for = cluster.controller.asked_for();
    assert!(asked_for.is_empty(), "no app is asked for that has nothing to report: {asked_for:?}");
}
