//! Wishes that cross each other and mishaps on the way: a deployment tells the truth and ends.

use std::collections::BTreeMap;

use api::{
    controller::{
        App, Base, Deployment, DeploymentStatus, JobState, META_BUILD, NewDeployment, NewHead,
        NewRelease, Release, ScaleRequest, ScaleState,
    },
    error::ErrorCode,
    id::DeploymentId,
};
use controller_client::{Controller, EventQuery};

use crate::{
    deployments::{push, until},
    scheduler::Scheduler,
    world::World,
};

fn counts<const N: usize>(counts: [(&str, u32); N]) -> BTreeMap<String, u32> {
    counts.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect()
}

fn change<const N: usize>(wanted: [(&str, u32); N]) -> ScaleRequest {
    ScaleRequest { new_processes: Some(counts(wanted)), ..ScaleRequest::default() }
}

/// Lets what is held serve until the deployment is over.
async fn end(scheduler: &Scheduler, client: &Controller, deployment: &Deployment) -> Deployment {
    testkit::wait_until("the deployment ends", async || {
        scheduler.serve_held(client).await;
        let now = client.deployment(deployment.id).await.unwrap();
        match now.status {
            DeploymentStatus::Complete | DeploymentStatus::Failed => Ok(now),
            _ => Err(now),
        }
    })
    .await
}

/// An app that serves with `web=1 worker=1`, and a deployment of which `web` is over and `worker` is held.
async fn half_way(world: &World) -> (App, [Release; 2], Deployment) {
    let client = &world.client;
    let app = world.app("one").await;
    let old = world.release(&app, &["web", "worker"], "serve").await;
    world.deploy(&app, &old).await;
    client.scale("one", old.id, &change([("worker", 1)])).await.unwrap();
    let meta = [("behaviour", "serve"), ("behaviour.worker", "hold")];
    let new = world.release_with(&app, &["web", "worker"], &meta).await;
    let deployment = client.deploy_release("one", new.id).await.unwrap();
    testkit::wait_until("web is replaced and worker waits", async || {
        let jobs = client.jobs("one").await.unwrap();
        let has = |release: &Release, kind: &str, state| {
            jobs.iter().any(|j| j.release == release.id && j.kind == kind && j.state == state)
        };
        let over = has(&old, "web", JobState::Down) && has(&new, "worker", JobState::Starting);
        if over { Ok(()) } else { Err(jobs) }
    })
    .await;
    (app, [old, new], deployment)
}

#[tokio::test]
async fn scaling_one_type_in_the_middle_of_a_deployment_leaves_the_others_alone() {
    let world = World::start().await;
    let client = &world.client;
    let scheduler = Scheduler::start(&world.lifetime, client);
    let (_, [old, new], deployment) = half_way(&world).await;
    // What people see is where it goes, not what is left of the old release.
    let shown = client.formation("one", old.id).await.unwrap().processes;
    assert_eq!(shown, counts([("web", 1), ("worker", 1)]));
    let stale =
        ScaleRequest { old_processes: Some(counts([("worker", 4)])), ..change([("worker", 2)]) };
    let err = client.scale("one", old.id, &stale).await.unwrap_err();
    assert_eq!(err.code(), Some(ErrorCode::Conflict));
    let scaled = client.scale("one", old.id, &change([("worker", 2)])).await.unwrap();
    assert_eq!(scaled.state, ScaleState::Complete);
    assert_eq!(scaled.old_processes, Some(counts([("web", 1), ("worker", 1)])));
    assert_eq!(scaled.new_processes, Some(counts([("web", 1), ("worker", 2)])));
    let err = client.delete_formation("one", new.id).await.unwrap_err();
    assert_eq!(err.code(), Some(ErrorCode::Conflict));
    let end = end(&scheduler, client, &deployment).await;
    assert_eq!((end.status, &end.error), (DeploymentStatus::Complete, &None));
    let now = client.formation("one", new.id).await.unwrap().processes;
    assert_eq!(now, counts([("web", 1), ("worker", 2)]));
}

#[tokio::test]
async fn a_scale_says_what_it_cannot_do() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    world.deploy(&app, &release).await;
    let tags = Some([("nope".to_owned(), BTreeMap::new())].into());
    for wrong in [
        change([("nope", 0)]),
        change([("web", 10_001)]),
        ScaleRequest { new_tags: tags, ..change([]) },
        ScaleRequest { state: ScaleState::Cancelled, ..change([]) },
    ] {
        let err = client.scale("one", release.id, &wrong).await.unwrap_err();
        assert_eq!(err.code(), Some(ErrorCode::ValidationError), "{wrong:?}");
    }
    assert_eq!(client.formation("one", release.id).await.unwrap().processes, counts([("web", 1)]));
}

#[tokio::test]
async fn a_running_deployment_that_is_cancelled_goes_back_and_a_waiting_one_never_begins() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    let (app, [old, new], deployment) = half_way(&world).await;
    let third = world.release(&app, &["web"], "serve").await;
    let waiting = client.deploy_release("one", third.id).await.unwrap();
    assert_eq!(waiting.processes, counts([("web", 1)]));
    let cancelled = client.cancel_deployment(waiting.id).await.unwrap();
    assert_eq!(cancelled.status, DeploymentStatus::Failed);
    client.cancel_deployment(deployment.id).await.unwrap();
    let end = client.wait_deployment(deployment.id, |_| {}).await.unwrap();
    assert_eq!(end.status, DeploymentStatus::Failed);
    assert!(end.error.unwrap().contains("it was cancelled; the old release keeps serving"));
    let now = client.formation("one", old.id).await.unwrap().processes;
    assert_eq!(now, counts([("web", 1), ("worker", 1)]));
    assert!(client.formation("one", new.id).await.unwrap_err().is_not_found());
    let err = client.cancel_deployment(deployment.id).await.unwrap_err();
    assert_eq!(err.code(), Some(ErrorCode::Conflict));
}

#[tokio::test]
async fn whatever_a_process_prints_its_deployment_ends_and_events_do_not_tell_it() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    let odd = "password=sesame bad\0byte\u{1b}[2J\u{fffd}".to_owned();
    *world.neighbours.lines.lock().unwrap() = vec![odd, "x".repeat(1 << 20)];
    let bad = world.release(&app, &["web"], "crash").await;
    let deployment = world.deploy(&app, &bad).await;
    assert_eq!(deployment.status, DeploymentStatus::Failed);
    let error = deployment.error.unwrap();
    assert!(error.contains("password=sesame bad\\x00byte\\x1b[2J\u{fffd}\n"), "{error}");
    assert!(error.len() < 2048, "{}", error.len());
    let query = EventQuery { app: Some("one".into()), types: &["deployment"], since: Some(0) };
    let events = client.past_events(&query, 100).await.unwrap();
    let told = serde_json::to_string(&events).unwrap();
    assert!(told.contains("ended 3 times") && !told.contains("sesame"), "{told}");
    // And the next deployment has its turn.
    let good = world.release(&app, &["web"], "serve").await;
    assert_eq!(world.deploy(&app, &good).await.status, DeploymentStatus::Complete);
}

#[tokio::test]
async fn a_release_that_crashed_is_deployed_again_once_it_can_serve() {
    let world = World::start().await;
    let client = &world.client;
    let scheduler = Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "crash").await;
    assert_eq!(world.deploy(&app, &release).await.status, DeploymentStatus::Failed);
    scheduler.behaviours.lock().unwrap().insert(release.id, "again");
    let deployment = world.deploy(&app, &release).await;
    assert_eq!((deployment.status, &deployment.error), (DeploymentStatus::Complete, &None));
}

#[tokio::test]
async fn a_job_its_host_starts_again_and_again_fails_the_deployment() {
    let world = World::start().await;
    Scheduler::start(&world.lifetime, &world.client);
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "resurrect").await;
    let deployment = world.deploy(&app, &release).await;
    assert_eq!(deployment.status, DeploymentStatus::Failed);
    assert!(deployment.error.unwrap().contains("ended 3 times"));
}

#[tokio::test]
async fn hosts_that_refuse_or_are_lost_and_reports_that_come_late_delay_and_fail_nothing() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    for behaviour in ["serve", "refuse", "lose", "late"] {
        let release = world.release(&app, &["web"], behaviour).await;
        let deployment = world.deploy(&app, &release).await;
        assert_eq!((deployment.status, &deployment.error), (DeploymentStatus::Complete, &None));
        let jobs = client.jobs("one").await.unwrap();
        let up = jobs.iter().filter(|j| j.release == release.id && j.state == JobState::Up);
        assert_eq!(up.count(), 1, "{behaviour}: {jobs:?}");
    }
}

/// Sets a variable as the CLI does: reads, changes, deploys what it made, and does so again if something came between.
async fn env_set(client: &Controller, name: &str) {
    loop {
        let base = client.app("one").await.unwrap().release;
        let release = client.release(base.unwrap()).await.unwrap();
        let mut new = NewRelease {
            app_id: release.app_id,
            artifacts: release.artifacts,
            env: release.env,
            meta: release.meta,
            processes: release.processes,
            ..NewRelease::default()
        };
        new.env.insert(name.into(), "set".into());
        let made = client.create_release(&new).await.unwrap();
        let wanted = NewDeployment { base: Some(Base::of(base)), ..NewDeployment::of(made.id) };
        match client.deploy("one", &wanted).await {
            Ok(deployment) => {
                let end = client.wait_deployment(deployment.id, |_| {}).await.unwrap();
                assert_eq!(end.status, DeploymentStatus::Complete, "{end:?}");
                return;
            }
            Err(err) => assert_eq!(err.code(), Some(ErrorCode::Conflict)),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn variables_that_are_set_at_the_same_time_end_up_set_all() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    let none =
        NewDeployment { base: Some(Base::of(Some(release.id))), ..NewDeployment::of(release.id) };
    let err = client.deploy("one", &none).await.unwrap_err();
    assert_eq!(err.code(), Some(ErrorCode::Conflict), "the app has no release to change yet");
    let first = NewDeployment { base: Some(Base::of(None)), ..NewDeployment::of(release.id) };
    let first = client.deploy("one", &first).await.unwrap();
    client.wait_deployment(first.id, |_| {}).await.unwrap();
    tokio::join!(env_set(client, "A"), env_set(client, "B"), env_set(client, "C"));
    let env = client.current_release("one").await.unwrap().env;
    assert!(["A", "B", "C"].iter().all(|name| env.contains_key(*name)), "{env:?}");
}

#[tokio::test]
async fn a_deployment_or_a_push_asked_for_twice_is_one() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    let id = DeploymentId::random();
    let wanted = NewDeployment {
        base: Some(Base::of(None)),
        deployment: Some(id),
        ..NewDeployment::of(release.id)
    };
    assert_eq!(client.deploy("one", &wanted).await.unwrap().id, id);
    client.wait_deployment(id, |_| {}).await.unwrap();
    assert_eq!(client.deploy("one", &wanted).await.unwrap().status, DeploymentStatus::Complete);
    let other = world.release(&app, &["web"], "serve").await;
    let other = NewDeployment { deployment: Some(id), ..NewDeployment::of(other.id) };
    assert_eq!(
        client.deploy("one", &other).await.unwrap_err().code(),
        Some(ErrorCode::ObjectExists)
    );

    let mut wanted = push(None, "c1");
    wanted.meta.insert(META_BUILD.into(), "b1".into());
    let made = client.push("one", &wanted).await.unwrap();
    assert_eq!(client.push("one", &wanted).await.unwrap().id, made.id);
    client.wait_deployment(made.id, |_| {}).await.unwrap();
    assert_eq!(client.push("one", &wanted).await.unwrap().id, made.id);
    assert_eq!(client.deployments("one").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_push_behind_an_unfinished_push_is_refused_and_an_overtaken_one_never_begins() {
    let world = World::start().await;
    let client = &world.client;
    let scheduler = Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    let mut first = push(None, "c1");
    first.meta.insert("behaviour".into(), "hold".into());
    let running = client.push("one", &first).await.unwrap();
    until(client, &running, DeploymentStatus::Running).await;
    let err = client.push("one", &push(None, "c2")).await.unwrap_err();
    assert_eq!(err.code(), Some(ErrorCode::Conflict));
    assert!(err.to_string().contains("c1, is being deployed"), "{err}");
    // It was made before the first push moved the head.
    let release = world.release(&app, &["web"], "serve").await;
    let head = Some(NewHead { old: None, new: "c3".into(), packs: vec![], packs_old: None });
    let late = NewDeployment { head, ..NewDeployment::of(release.id) };
    let late = client.deploy("one", &late).await.unwrap();
    assert_eq!(end(&scheduler, client, &running).await.status, DeploymentStatus::Complete);
    let overtaken = client.wait_deployment(late.id, |_| {}).await.unwrap();
    assert_eq!(overtaken.status, DeploymentStatus::Failed);
    assert!(overtaken.error.unwrap().contains("fetch, merge and push again"));
    assert!(client.formation("one", release.id).await.unwrap_err().is_not_found());
}
