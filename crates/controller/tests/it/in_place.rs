//! Deployments of what the controller stands on.

use api::{
    controller::{
        App, ArtifactType, DeploymentStatus, JobState, META_SYSTEM_APP, META_SYSTEM_CRITICAL,
        NewApp, NewArtifact, NewFormation, NewRelease, ProcessType, Release, Strategy,
    },
    error::ErrorCode,
    host::{EndReason, Job, META_IN_PLACE_OF, Status},
    id::JobId,
};
use serde_json::json;

use crate::{scheduler::Scheduler, world::World};

async fn release(world: &World, app: &App) -> Release {
    let uri = "docker:///flynn/postgres".into();
    let image = NewArtifact { id: None, kind: ArtifactType::Docker, uri, meta: [].into() };
    let image = world.client.create_artifact(&image).await.unwrap();
    let keeper: ProcessType =
        serde_json::from_value(json!({ "volumes": [{ "path": "/data" }] })).unwrap();
    let new = NewRelease {
        app_id: Some(app.id),
        artifacts: vec![image.id],
        processes: [("db".to_owned(), keeper), ("web".to_owned(), ProcessType::default())].into(),
        ..NewRelease::default()
    };
    world.client.create_release(&new).await.unwrap()
}

/// The host runs what serves.
async fn adopted(world: &World, app: &App) -> JobId {
    let jobs = world.client.jobs(&app.name).await.unwrap();
    let serves = |job: &&api::controller::Job| job.kind == "db" && !job.state.is_over();
    let old = jobs.iter().find(serves).unwrap().uuid;
    let job: Job = serde_json::from_value(json!({ "id": old, "image": "i" })).unwrap();
    world.neighbours.jobs.send_modify(|known| drop(known.insert(old, job)));
    old
}

async fn ordered(world: &World, old: JobId) -> Job {
    let mut jobs = world.neighbours.jobs.subscribe();
    let of = |jobs: &std::collections::BTreeMap<JobId, Job>| {
        jobs.values().find(|job| job.replaces == Some(old)).cloned()
    };
    let jobs = jobs.wait_for(|jobs| of(jobs).is_some()).await.unwrap();
    of(&jobs).unwrap()
}

#[tokio::test]
async fn what_keeps_the_clusters_data_is_replaced_by_its_host_and_only_then_scaled() {
    let world = World::start().await;
    Scheduler::start(&world.lifetime, &world.client);
    let meta = [(META_SYSTEM_CRITICAL.to_owned(), "true".to_owned())];
    let meta = Some(meta.into());
    let strategy = Some(Strategy::OneDownOneUp);
    let new = NewApp { name: Some("db".into()), meta, strategy, ..NewApp::default() };
    let app = world.client.create_app(&new).await.unwrap();
    let first = release(&world, &app).await;
    assert_eq!(world.deploy(&app, &first).await.status, DeploymentStatus::Complete);
    let both = [("db".to_owned(), 1), ("web".to_owned(), 1)].into();
    let wanted = NewFormation { processes: both };
    world.client.put_formation("db", first.id, &wanted).await.unwrap();
    testkit::wait_until("both serve", async || {
        let jobs = world.client.jobs("db").await.unwrap();
        let up = jobs.iter().filter(|job| job.state == JobState::Up).count();
        if up == 2 { Ok(()) } else { Err(jobs) }
    })
    .await;
    let old = adopted(&world, &app).await;
    let end =
        |job, status, reason| world.neighbours.ended.lock().unwrap().insert(job, (status, reason));

    let bad = release(&world, &app).await;
    let deployment = world.client.deploy_release("db", bad.id).await.unwrap();
    let trial = ordered(&world, old).await;
    assert_eq!(trial.metadata[META_IN_PLACE_OF], first.id.to_string());
    assert_eq!(world.client.formation("db", first.id).await.unwrap().processes["db"], 1);
    end(trial.id, Status::Crashed, EndReason::CheckNeverPassed);
    let failed = world.client.wait_deployment(deployment.id, |_| {}).await.unwrap();
    assert_eq!(failed.status, DeploymentStatus::Failed);
    assert!(failed.error.unwrap().contains("did not come to serve"));
    assert_eq!(world.client.formation("db", first.id).await.unwrap().processes["db"], 1);
    assert!(
        world
            .client
            .jobs("db")
            .await
            .unwrap()
            .iter()
            .any(|job| job.uuid == old && !job.state.is_over())
    );

    world.neighbours.jobs.send_modify(|known| drop(known.remove(&trial.id)));
    let good = release(&world, &app).await;
    let deployment = world.client.deploy_release("db", good.id).await.unwrap();
    let trial = ordered(&world, old).await;
    end(old, Status::Done, EndReason::Stopped);
    let complete = world.client.wait_deployment(deployment.id, |_| {}).await.unwrap();
    assert_eq!(complete.status, DeploymentStatus::Complete, "{complete:?}");
    let formations = world.client.formations("db").await.unwrap();
    assert_eq!((formations.len(), formations[0].release), (1, good.id));
    assert_eq!(trial.config.volumes.len(), 1);
}

#[tokio::test]
async fn a_part_of_flynn_is_not_deployed_with_a_key_that_locks_the_others_out() {
    let world = World::start().await;
    Scheduler::start(&world.lifetime, &world.client);
    let deploy = async |name: &str, key: &str| {
        let meta = [META_SYSTEM_APP, META_SYSTEM_CRITICAL].map(|key| (key.into(), "true".into()));
        let new = NewApp { name: Some(name.into()), meta: Some(meta.into()), ..NewApp::default() };
        let app = match world.client.app(name).await {
            Ok(app) => app,
            Err(_) => world.client.create_app(&new).await.unwrap(),
        };
        let new = NewRelease {
            app_id: Some(app.id),
            artifacts: world.release(&app, &[], "serve").await.artifacts,
            env: [("SHELF_KEY".to_owned(), key.to_owned())].into(),
            ..NewRelease::default()
        };
        let release = world.client.create_release(&new).await.unwrap();
        let deployment = world.client.deploy_release(name, release.id).await?;
        world.client.wait_deployment(deployment.id, |_| {}).await
    };
    deploy("shelf", "old").await.unwrap();
    deploy("gitreceived", "old").await.unwrap();
    let refused = deploy("shelf", "new").await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::ValidationError));
    assert!(refused.to_string().contains("would lock out gitreceived"), "{refused}");
    for (name, key) in [("shelf", "new,old"), ("gitreceived", "new"), ("shelf", "new")] {
        let deployment = deploy(name, key).await.unwrap();
        assert_eq!(deployment.status, DeploymentStatus::Complete, "{name} {key}");
    }
}
