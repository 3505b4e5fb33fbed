//! Deleting apps, whatever becomes of who asked.

use std::time::Duration;

use api::{
    controller::{App, Job, JobState, NewJob, Release},
    error::ErrorCode,
};
use controller_client::{Controller, EventQuery};

use crate::{scheduler, world::World};

async fn running_job(world: &World, app: &App, release: &Release) -> Job {
    let args = vec!["--password=sesame".into()];
    let job = Job { state: JobState::Up, args, ..scheduler::job(app.id, release.id, "web") };
    world.client.put_job(&job).await.unwrap()
}

/// Asks for the deletion, and goes before there is an answer.
async fn ask_and_go(world: &World, app: &str) {
    let once = Controller::with_client(world.client.client().without_retries());
    let asked = tokio::time::timeout(Duration::from_millis(500), once.delete_app(app)).await;
    assert!(asked.is_err(), "its process still runs: {asked:?}");
}

#[tokio::test]
async fn a_deletion_goes_on_without_who_asked_for_it() {
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    let job = running_job(&world, &app, &release).await;
    ask_and_go(&world, "one").await;
    assert_eq!(world.client.app("one").await.unwrap().id, app.id);
    let refused = world.client.deploy_release("one", release.id).await.unwrap_err();
    assert!(refused.to_string().contains("being deleted"), "{refused}");
    world.client.put_job(&Job { state: JobState::Down, ..job }).await.unwrap();
    testkit::wait_until("the app is deleted", async || match world.client.app("one").await {
        Err(err) if err.is_not_found() => Ok(()),
        other => Err(other),
    })
    .await;
    let left = world.neighbours.routes.lock().unwrap().clone();
    assert_eq!(left, []);
    let query = EventQuery { types: &["job"], ..EventQuery::default() };
    let jobs = world.client.past_events(&query, 100).await.unwrap();
    assert!(!jobs.is_empty() && !serde_json::to_string(&jobs).unwrap().contains("sesame"));
}

#[tokio::test]
async fn a_deletion_whose_processes_do_not_end_is_given_up_and_says_so() {
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    running_job(&world, &app, &release).await;
    ask_and_go(&world, "one").await;
    let past = "UPDATE apps SET deleting_since = now() - interval '2 hours' WHERE name = 'one'";
    world.sql(past).await;
    let err = world.client.delete_app("one").await.unwrap_err();
    assert_eq!(err.code(), Some(ErrorCode::Conflict));
    assert!(err.to_string().contains("1 processes of one did not end"), "{err}");
    let query = EventQuery { types: &["app_deletion"], ..EventQuery::default() };
    let told = world.client.past_events(&query, 10).await.unwrap();
    assert!(told[0].data["error"].as_str().unwrap().contains("did not end"));
    assert_eq!(world.client.app("one").await.unwrap().id, app.id);
}

#[tokio::test]
async fn a_job_that_is_started_while_its_app_is_deleted_is_stopped() {
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    world.client.set_release("one", release.id).await.unwrap();
    // The host runs it already, and who ordered it has not heard so.
    world.neighbours.gate.shut("commit answer");
    let job = NewJob { args: vec!["cat".into()], ..NewJob::default() };
    let mut stopped = world.neighbours.stopped.subscribe();
    let deletion = async {
        world.neighbours.gate.reached().await;
        ask_and_go(&world, "one").await;
        let told = stopped.wait_for(|stopped| !stopped.is_empty());
        tokio::time::timeout(testkit::LIMIT, told).await.unwrap().unwrap();
        world.neighbours.gate.open();
    };
    let (run, ()) = tokio::join!(world.client.run_job_detached("one", &job), deletion);
    let job = run.unwrap();
    assert_eq!(*world.neighbours.stopped.borrow(), [job.uuid]);
    world.client.put_job(&Job { state: JobState::Down, ..job }).await.unwrap();
    testkit::wait_until("the app is deleted", async || match world.client.app("one").await {
        Err(err) if err.is_not_found() => Ok(()),
        other => Err(other),
    })
    .await;
    // One of which its host told late only.
    let late = Job { state: JobState::Up, ..scheduler::job(app.id, release.id, "") };
    world.client.put_job(&late).await.unwrap();
    let mut stopped = world.neighbours.stopped.subscribe();
    let told = stopped.wait_for(|stopped| stopped.contains(&late.uuid));
    tokio::time::timeout(testkit::LIMIT, told).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_job_of_which_it_is_not_known_whether_it_was_started_is_stopped() {
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    world.client.set_release("one", release.id).await.unwrap();
    *world.neighbours.refusal.lock().unwrap() = Some("it was lost".into());
    let job = NewJob { args: vec!["cat".into()], ..NewJob::default() };
    let refused = world.client.run_job_detached("one", &job).await.unwrap_err();
    assert!(refused.to_string().contains("it was lost"), "{refused}");
    let known = world.client.jobs("one").await.unwrap().remove(0);
    assert_eq!(known.state, JobState::Crashed, "it is told what became of it");
    assert_eq!(*world.neighbours.stopped.borrow(), [known.uuid]);
}

#[tokio::test]
async fn a_job_that_was_recorded_and_never_ordered_holds_up_no_deletion() {
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    // As if its controller had ended in between: no host knows it.
    world.neighbours.gate.shut("commit");
    world.client.put_job(&scheduler::job(app.id, release.id, "")).await.unwrap();
    world.sql("UPDATE jobs SET updated_at = now() - interval '5 minutes'").await;
    world.client.delete_app("one").await.unwrap();
}

#[tokio::test]
async fn a_job_that_was_never_ordered_holds_up_no_deletion_once_its_host_is_gone() {
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    let job = scheduler::job(app.id, release.id, "");
    let job = Job { id: format!("host-9-{}", job.uuid), host_id: Some("host-9".into()), ..job };
    world.client.put_job(&job).await.unwrap();
    world.sql("UPDATE jobs SET updated_at = now() - interval '5 minutes'").await;
    // discoverd does not list it, but the cluster has it.
    world.neighbours.hosts.lock().unwrap().push("host-9".into());
    let once = Controller::with_client(world.client.client().without_retries());
    let kept = once.delete_job("one", &job.id).await.unwrap_err();
    assert!(kept.to_string().contains("host-9 is not in the cluster at the moment"), "{kept}");
    assert_eq!(world.client.job("one", &job.id).await.unwrap().state, JobState::Starting);
    world.neighbours.hosts.lock().unwrap().retain(|host| host != "host-9");
    world.client.delete_app("one").await.unwrap();
    let lost = "SELECT count(*) FROM jobs WHERE end_reason = 'host_lost'";
    assert_eq!(world.number(lost).await, 1);
}

#[tokio::test]
async fn a_slow_host_is_told_of_several_jobs_at_a_time_and_holds_up_no_other_app() {
    let world = World::start().await;
    let big = world.app("big").await;
    let release = world.release(&big, &["web"], "serve").await;
    world.app("small").await;
    for _ in 0..8 {
        let job = scheduler::job(big.id, release.id, "");
        world.client.put_job(&Job { state: JobState::Up, ..job }).await.unwrap();
    }
    world.neighbours.gate.shut("stop");
    ask_and_go(&world, "big").await;
    world.neighbours.gate.reached_by(8).await;
    world.client.delete_app("small").await.unwrap();
    assert_eq!(*world.neighbours.stopped.borrow(), [], "none has answered meanwhile");
    world.neighbours.gate.open();
    let mut stopped = world.neighbours.stopped.subscribe();
    let told = stopped.wait_for(|stopped| stopped.len() >= 8);
    tokio::time::timeout(testkit::LIMIT, told).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_app_that_is_being_deleted_gets_no_job() {
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    world.client.set_release("one", release.id).await.unwrap();
    running_job(&world, &app, &release).await;
    ask_and_go(&world, "one").await;
    let job = NewJob { args: vec!["cat".into()], ..NewJob::default() };
    let refusals = [
        world.client.run_job_detached("one", &job).await.map(drop),
        world.client.run_job_attached("one", &job).await.map(drop),
        world.client.deploy_repository("one").await.map(drop),
    ];
    for refusal in refusals {
        let refusal = refusal.unwrap_err();
        assert!(
            refusal.is_conflict() && refusal.to_string().contains("being deleted"),
            "{refusal}"
        );
    }
    assert!(world.neighbours.jobs.borrow().is_empty());
}

#[tokio::test]
async fn a_host_that_does_not_know_a_job_yet_is_told_again_to_stop_it() {
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    world.client.set_release("one", release.id).await.unwrap();
    world.neighbours.gate.shut("commit");
    let job = NewJob { args: vec!["cat".into()], ..NewJob::default() };
    let mut stopped = world.neighbours.stopped.subscribe();
    let deletion = async {
        world.neighbours.gate.reached().await;
        ask_and_go(&world, "one").await;
        let told = stopped.wait_for(|stopped| !stopped.is_empty());
        tokio::time::timeout(testkit::LIMIT, told).await.unwrap().unwrap();
        world.neighbours.gate.open();
    };
    let (attached, ()) = tokio::join!(world.client.run_job_attached("one", &job), deletion);
    let told = stopped.wait_for(|stopped| stopped.len() >= 2);
    tokio::time::timeout(testkit::LIMIT, told).await.unwrap().unwrap();
    let known = world.client.jobs("one").await.unwrap().remove(0);
    world.client.put_job(&Job { state: JobState::Down, ..known }).await.unwrap();
    testkit::wait_until("the app is deleted", async || match world.client.app("one").await {
        Err(err) if err.is_not_found() => Ok(()),
        other => Err(other),
    })
    .await;
    drop(attached);
}
