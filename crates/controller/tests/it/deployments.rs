use std::{collections::BTreeMap, time::Instant};

use api::{
    controller::{
        App, ArtifactType, Deployment, DeploymentStatus, NewArtifact, NewDeployment, NewFormation,
        NewHead, NewPush, Release,
    },
    error::ErrorCode,
};
use controller_client::Controller;

use crate::{scheduler::Scheduler, world::World};

fn counts(web: u32) -> BTreeMap<String, u32> {
    [("web".to_owned(), web)].into()
}

pub(crate) async fn scale(client: &Controller, app: &App, release: &Release, web: u32) {
    let wanted = NewFormation { processes: counts(web) };
    client.put_formation(&app.name, release.id, &wanted).await.unwrap();
}

pub(crate) async fn until(
    client: &Controller,
    deployment: &Deployment,
    status: DeploymentStatus,
) -> Deployment {
    testkit::wait_until("the deployment changes", async || {
        let now = client.deployment(deployment.id).await.unwrap();
        if now.status == status { Ok(now) } else { Err(now) }
    })
    .await
}

#[tokio::test]
async fn the_first_deployment_runs_one_web_and_the_next_ones_keep_what_runs() {
    let world = World::start().await;
    let client = &world.client;
    let scheduler = Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    let first = world.release(&app, &["web", "worker"], "serve").await;
    let deployment = world.deploy(&app, &first).await;
    assert_eq!((deployment.status, &deployment.error), (DeploymentStatus::Complete, &None));
    assert_eq!(client.formation("one", first.id).await.unwrap().processes, counts(1));
    assert_eq!(client.current_release("one").await.unwrap().id, first.id);

    scale(client, &app, &first, 4).await;
    testkit::wait_until("four serve", async || {
        let last = scheduler.serving.lock().unwrap()[&app.id].last().copied();
        if last == Some(4) { Ok(()) } else { Err(last) }
    })
    .await;
    scheduler.serving.lock().unwrap().clear();
    let second = world.release(&app, &["web"], "serve").await;
    let deployment = world.deploy(&app, &second).await;
    assert_eq!(deployment.status, DeploymentStatus::Complete, "{deployment:?}");
    let formations = client.formations("one").await.unwrap();
    assert_eq!(formations.len(), 1);
    assert_eq!((formations[0].release, &formations[0].processes), (second.id, &counts(4)));
    let serving = scheduler.serving.lock().unwrap()[&app.id].clone();
    // A step tells of both formations, one after the other: between them it is seen by half.
    assert!(serving.iter().all(|&up| (4..=6).contains(&up)), "{serving:?}");
}

#[tokio::test]
async fn a_release_that_crashes_or_never_listens_fails_and_the_old_one_keeps_serving() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    let good = world.release(&app, &["web"], "serve").await;
    world.deploy(&app, &good).await;
    scale(client, &app, &good, 2).await;
    for (behaviour, told) in [("crash", "ended 3 times"), ("deaf", "nothing listens on 8080")] {
        let bad = world.release(&app, &["web"], behaviour).await;
        let deployment = world.deploy(&app, &bad).await;
        assert_eq!(deployment.status, DeploymentStatus::Failed);
        let error = deployment.error.unwrap();
        assert!(error.contains(told), "{error}");
        assert!(error.contains("the old release keeps serving"), "{error}");
        assert!(error.ends_with("boom: no such module"), "{error}");
        assert_eq!(client.formation("one", good.id).await.unwrap().processes, counts(2));
        assert!(client.formation("one", bad.id).await.unwrap_err().is_not_found());
        assert_eq!(client.current_release("one").await.unwrap().id, good.id);
    }
}

#[tokio::test]
async fn a_step_that_takes_too_long_fails_the_deployment() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    let patience = api::controller::NewApp { deploy_timeout: Some(1), ..Default::default() };
    client.update_app("one", &patience).await.unwrap();
    let held = world.release(&app, &["web"], "hold").await;
    let deployment = world.deploy(&app, &held).await;
    assert_eq!(deployment.status, DeploymentStatus::Failed);
    let error = deployment.error.unwrap();
    assert!(error.contains("did not serve within 1 s"), "{error}");
    assert!(client.current_release("one").await.unwrap_err().is_not_found());
    assert!(client.formations("one").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_scale_during_a_deployment_is_for_the_new_release() {
    let world = World::start().await;
    let client = &world.client;
    let scheduler = Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    let old = world.release(&app, &["web"], "serve").await;
    world.deploy(&app, &old).await;
    let new = world.release(&app, &["web"], "hold").await;
    let deployment = client.deploy_release("one", new.id).await.unwrap();
    until(client, &deployment, DeploymentStatus::Running).await;
    scale(client, &app, &old, 3).await;
    let end = testkit::wait_until("the deployment ends", async || {
        scheduler.serve_held(client).await;
        let now = client.deployment(deployment.id).await.unwrap();
        if now.status == DeploymentStatus::Complete { Ok(now) } else { Err(now) }
    })
    .await;
    assert_eq!(end.processes, counts(3));
    assert_eq!(client.formation("one", new.id).await.unwrap().processes, counts(3));
}

#[tokio::test]
async fn one_runs_at_a_time_and_a_newer_one_replaces_the_one_that_waits() {
    let world = World::start().await;
    let client = &world.client;
    let scheduler = Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    let held = world.release(&app, &["web"], "hold").await;
    let running = client.deploy_release("one", held.id).await.unwrap();
    until(client, &running, DeploymentStatus::Running).await;
    let second = world.release(&app, &["web"], "serve").await;
    let waiting = client.deploy_release("one", second.id).await.unwrap();
    let third = world.release(&app, &["web"], "serve").await;
    let newest = client.deploy_release("one", third.id).await.unwrap();
    let replaced = client.deployment(waiting.id).await.unwrap();
    assert_eq!(replaced.status, DeploymentStatus::Failed);
    assert!(replaced.error.unwrap().contains(&newest.id.to_string()));
    assert_eq!(client.deployment(newest.id).await.unwrap().status, DeploymentStatus::Pending);
    testkit::wait_until("the first is complete", async || {
        scheduler.serve_held(client).await;
        let now = client.deployment(running.id).await.unwrap();
        if now.status == DeploymentStatus::Complete { Ok(()) } else { Err(now) }
    })
    .await;
    let end = client.wait_deployment(newest.id, |_| {}).await.unwrap();
    assert_eq!((end.status, end.old_release), (DeploymentStatus::Complete, Some(held.id)));
}

#[test]
fn a_deployment_goes_on_in_another_controller_when_the_first_dies() {
    let outer = tokio::runtime::Runtime::new().unwrap();
    let world = outer.block_on(World::without_controller());
    // Its tasks end with the runtime, wherever they are, as by kill -9.
    let first = tokio::runtime::Runtime::new().unwrap();
    let doomed = daemon::Lifetime::default();
    let running = first.block_on(controller::start(world.config.clone(), &doomed)).unwrap();
    let client = crate::world::client(running.addr);
    let world = World { client: client.clone(), ..world };
    let (app, held, deployment) = outer.block_on(async {
        let app = world.app("one").await;
        let held = world.release(&app, &["web"], "hold").await;
        let deployment = client.deploy_release("one", held.id).await.unwrap();
        testkit::wait_until("the first step was taken", async || {
            client.formation("one", held.id).await
        })
        .await;
        (app, held, deployment)
    });
    first.shutdown_background();
    outer.block_on(async {
        let running = controller::start(world.config.clone(), &world.lifetime).await.unwrap();
        let client = crate::world::client(running.addr);
        let scheduler = Scheduler::start(&world.lifetime, &client);
        testkit::wait_until("the second controller completes it", async || {
            scheduler.serve_held(&client).await;
            let now = client.deployment(deployment.id).await.unwrap();
            if now.status == DeploymentStatus::Complete { Ok(()) } else { Err(now) }
        })
        .await;
        assert_eq!(client.app(&app.name).await.unwrap().release, Some(held.id));
    });
}

pub(crate) fn push(old: Option<&str>, new: &str) -> NewPush {
    let artifact = |kind, uri: &str, meta: BTreeMap<String, String>| NewArtifact {
        id: None,
        kind,
        uri: uri.into(),
        meta,
    };
    let sha = [("sha256".to_owned(), "ab".repeat(32))].into();
    NewPush {
        slug: artifact(ArtifactType::File, &format!("http://shelf.discoverd/slugs/{new}.tgz"), sha),
        image: artifact(ArtifactType::Docker, "docker:///flynn/slugrunner", [].into()),
        types: vec!["web".into()],
        config_vars: [("NODE_ENV".to_owned(), "production".to_owned())].into(),
        meta: [("git.commit".to_owned(), new.to_owned())].into(),
        head: NewHead {
            old: old.map(str::to_owned),
            new: new.into(),
            packs: vec![format!("/repos/{new}.pack")],
            packs_old: None,
        },
    }
}

#[tokio::test]
async fn a_push_is_stored_whole_or_not_at_all_and_the_head_moves_with_the_deployment() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    let deployment = client.push("one", &push(None, "c1")).await.unwrap();
    let end = client.wait_deployment(deployment.id, |_| {}).await.unwrap();
    assert_eq!(end.status, DeploymentStatus::Complete, "{end:?}");
    let repository = client.repository("one").await.unwrap();
    assert_eq!(repository.head.as_deref(), Some("c1"));
    assert_eq!(repository.packs, ["/repos/c1.pack"]);
    let release = client.current_release("one").await.unwrap();
    assert_eq!((release.artifacts.len(), release.env["NODE_ENV"].as_str()), (2, "production"));
    assert_eq!(release.processes["web"].args, ["start", "web"]);
    assert_eq!(release.processes["web"].ports[0].service.as_ref().unwrap().name, "one-web");

    // A head that is not current: nothing of the push is there.
    let before =
        (client.releases("one").await.unwrap().len(), client.artifacts().await.unwrap().len());
    let err = client.push("one", &push(None, "c2")).await.unwrap_err();
    assert_eq!(err.code(), Some(ErrorCode::Conflict));
    let mut invalid = push(Some("c1"), "c2");
    invalid.types = vec!["not/a/type".into()];
    let err = client.push("one", &invalid).await.unwrap_err();
    assert_eq!(err.code(), Some(ErrorCode::ValidationError));
    let after =
        (client.releases("one").await.unwrap().len(), client.artifacts().await.unwrap().len());
    assert_eq!(after, before);

    // A deployment whose head was overtaken changes nothing.
    let release = world.release(&app, &["web"], "serve").await;
    let head = NewHead { old: Some("c0".into()), new: "c3".into(), packs: vec![], packs_old: None };
    let late = NewDeployment { head: Some(head), ..NewDeployment::of(release.id) };
    let late = client.deploy("one", &late).await.unwrap();
    let end = client.wait_deployment(late.id, |_| {}).await.unwrap();
    assert_eq!(end.status, DeploymentStatus::Failed);
    assert!(end.error.unwrap().contains("push again"));
    assert_eq!(client.repository("one").await.unwrap(), repository);
    assert_ne!(client.current_release("one").await.unwrap().id, release.id);
}

#[tokio::test]
async fn only_one_pushes_at_a_time() {
    let world = World::start().await;
    let client = &world.client;
    world.app("one").await;
    let lease = |holder: &str| api::controller::RepositoryLease {
        holder: holder.repeat(16),
        ttl_seconds: 60,
    };
    client.lease_repository("one", &lease("a")).await.unwrap();
    client.lease_repository("one", &lease("a")).await.unwrap();
    let err = client.lease_repository("one", &lease("b")).await.unwrap_err();
    assert_eq!(err.code(), Some(ErrorCode::Conflict));
    client.release_repository("one", &lease("b")).await.unwrap();
    assert!(client.lease_repository("one", &lease("b")).await.is_err());
    client.release_repository("one", &lease("a")).await.unwrap();
    client.lease_repository("one", &lease("b")).await.unwrap();
}

#[tokio::test]
async fn a_deployment_ends_what_runs_of_third_releases() {
    let world = World::start().await;
    let client = &world.client;
    let scheduler = Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    let mut releases = Vec::new();
    for _ in 0..3 {
        releases.push(world.release(&app, &["web"], "serve").await);
    }
    world.deploy(&app, &releases[0]).await;
    scale(client, &app, &releases[1], 2).await;
    testkit::wait_until("three serve", async || {
        let last = scheduler.serving.lock().unwrap()[&app.id].last().copied();
        if last == Some(3) { Ok(()) } else { Err(last) }
    })
    .await;
    let deployment = world.deploy(&app, &releases[2]).await;
    assert_eq!(deployment.status, DeploymentStatus::Complete, "{deployment:?}");
    let formations = client.formations("one").await.unwrap();
    let left: Vec<_> = formations.iter().map(|one| (one.release, &one.processes)).collect();
    assert_eq!(left, [(releases[2].id, &counts(1))]);
}

#[tokio::test]
async fn deployments_are_not_looked_for_at_every_event() {
    let world = World::start().await;
    // Each time somebody reads the table it is counted.
    world
        .sql(
            "CREATE SEQUENCE looks; ALTER TABLE deployments RENAME TO deployments_kept; \
             CREATE VIEW deployments AS SELECT kept.* FROM (SELECT nextval('looks') look OFFSET 0) one, \
                 LATERAL (SELECT * FROM deployments_kept WHERE one.look > 0 OFFSET 0) kept",
        )
        .await;
    let looks = async || world.number("SELECT last_value FROM looks").await;
    let (before, began) = (looks().await, Instant::now());
    for n in 0..60 {
        world.app(&format!("app-{n}")).await;
    }
    let looked = looks().await - before;
    // Every two seconds, and the table is named twice.
    let most = 4 + i64::try_from(began.elapsed().as_secs()).unwrap();
    assert!(looked <= most, "{looked} looks while there were 60 apps and their routes");
}
