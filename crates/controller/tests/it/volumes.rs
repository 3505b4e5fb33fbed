//! Volumes: whose they are, how large, and which may go.

use std::time::Duration;

use api::{
    controller::{App, META_SYSTEM_APP, NewApp, NewFormation, NewRelease, ProcessType, VolumeReq},
    expand::volume_name,
    id::{AppId, JobId},
    volume::{HostVolume, Size},
};

use crate::{neighbours::HOST, world::World};

fn volume(name: &str, jobs: &[JobId]) -> HostVolume {
    let size = Size { bytes: 4096, at_least: false };
    HostVolume { name: name.into(), size, jobs: jobs.to_vec() }
}

#[tokio::test]
async fn volumes_are_listed_with_app_host_and_size_and_removed_when_nothing_has_them() {
    let world = World::start().await;
    let client = &world.client;
    let app = world.app("one").await;
    let meta = [(META_SYSTEM_APP.to_owned(), "true".to_owned())].into();
    let part = NewApp { name: Some("part".into()), meta: Some(meta), ..NewApp::default() };
    let part = client.create_app(&part).await.unwrap();
    let [own, used, of_part, left] = [
        volume_name(app.id, "db", "/data"),
        volume_name(app.id, "db", "/used"),
        volume_name(part.id, "db", "/data"),
        volume_name(AppId::random(), "db", "/data"),
    ];
    let job = JobId::random();
    let kept =
        [volume(&own, &[]), volume(&used, &[job]), volume(&of_part, &[]), volume(&left, &[])];
    *world.neighbours.volumes.lock().unwrap() = kept.to_vec();

    assert_eq!(client.volumes().await.unwrap().len(), 4);
    let of_app = client.app_volumes("one").await.unwrap();
    assert_eq!(of_app.len(), 2);
    let listed = of_app.iter().find(|volume| volume.id == own).unwrap();
    assert_eq!((&*listed.host_id, listed.size.map(|size| size.bytes)), (HOST, Some(4096)));
    assert_eq!((&*listed.job_type, listed.path.as_deref()), ("db", Some("/data")));
    assert_eq!(listed.app_name.as_deref(), Some("one"));

    // What shall run keeps it, and so does what runs; a part of Flynn keeps its own.
    let release = world.release(&app, &["db"], "serve").await;
    let counts = |n| NewFormation { processes: [("db".to_owned(), n)].into() };
    client.put_formation("one", release.id, &counts(1)).await.unwrap();
    let remove = async |app: Option<&str>, id: &str| client.remove_volume(app, id, None).await;
    let wanted = remove(Some("one"), &own).await.unwrap_err();
    assert!(wanted.is_conflict() && wanted.to_string().contains("flynn scale db=0"), "{wanted}");
    client.put_formation("one", release.id, &counts(0)).await.unwrap();
    let in_use = remove(Some("one"), &used).await.unwrap_err();
    assert!(in_use.is_conflict() && in_use.to_string().contains(&job.to_string()), "{in_use}");
    let of_flynn = remove(Some("part"), &of_part).await.unwrap_err();
    assert!(of_flynn.to_string().contains("part of Flynn"), "{of_flynn}");
    for (app, id) in [(Some("one"), &of_part), (Some("one"), &left), (None, &own), (None, &of_part)]
    {
        assert!(remove(app, id).await.is_err(), "{app:?} {id}");
    }
    assert_eq!(world.neighbours.volumes.lock().unwrap().len(), 4);

    assert_eq!(remove(Some("one"), &own).await.unwrap().id, own);
    assert_eq!(remove(None, &left).await.unwrap().id, left);
    assert!(remove(None, &left).await.unwrap_err().is_not_found());
    let rest = world.neighbours.volumes.lock().unwrap().clone();
    assert_eq!(rest, [volume(&used, &[job]), volume(&of_part, &[])]);
}

#[tokio::test]
async fn what_is_being_deployed_and_what_was_just_wished_for_keep_their_volume() {
    let world = World::start().await;
    let client = &world.client;
    let app = world.app("one").await;
    let own = volume_name(app.id, "db", "/data");
    *world.neighbours.volumes.lock().unwrap() = vec![volume(&own, &[])];
    let release = world.release(&app, &["db"], "serve").await;
    let counts = |n| NewFormation { processes: [("db".to_owned(), n)].into() };
    client.put_formation("one", release.id, &counts(0)).await.unwrap();
    let kept = async |when: &str| {
        let kept = client.remove_volume(Some("one"), &own, None).await;
        assert!(kept.as_ref().is_err_and(|err| err.is_conflict()), "{when}: {kept:?}");
    };
    // One down, one up: for a moment neither release has one.
    let deployment = format!(
        "INSERT INTO deployments (deployment_id, app_id, new_release, strategy, status, processes, \
             deploy_timeout, lease_until) \
         VALUES ('{}', '{}', '{}', 'one-down-one-up', 'running', '{{\"db\": 1}}', 120, \
             now() + interval '1 hour')",
        JobId::random().uuid(),
        app.id.uuid(),
        release.id.uuid(),
    );
    world.sql(&deployment).await;
    kept("it is being deployed").await;
    world.sql("UPDATE deployments SET processes = '{}', original = '{\"db\": 2}'").await;
    kept("a failure restores it").await;
    world.sql("UPDATE deployments SET status = 'complete', finished_at = now()").await;

    // The hosts answer slowly, and meanwhile it is scaled up.
    world.neighbours.gate.shut("volumes");
    let scale = async {
        world.neighbours.gate.reached().await;
        client.put_formation("one", release.id, &counts(1)).await.unwrap();
        world.neighbours.gate.open();
    };
    tokio::join!(kept("it was scaled up"), scale);
    client.put_formation("one", release.id, &counts(0)).await.unwrap();
    client.remove_volume(Some("one"), &own, None).await.unwrap();
}

/// An app whose volumes go by its name, as before volumes went by ids, with a release that has one.
async fn by_name(world: &World, name: &str) -> App {
    let app = world.app(name).await;
    world.sql(&format!("UPDATE apps SET volumes_by_name = true WHERE name = '{name}'")).await;
    let volumes = vec![VolumeReq { path: "/data".into(), shared: false }];
    let process = ProcessType { volumes, ..ProcessType::default() };
    let new = NewRelease {
        app_id: Some(app.id),
        processes: [("db".to_owned(), process)].into(),
        ..NewRelease::default()
    };
    world.client.create_release(&new).await.unwrap();
    app
}

#[tokio::test]
async fn volumes_that_go_by_a_name_go_with_the_app_or_when_nobody_has_them() {
    let world = World::start().await;
    let gone = by_name(&world, "shop").await;
    by_name(&world, "live").await;
    let kept = ["shop-db-data", "live-db-data", "stray-db-data"].map(|name| volume(name, &[]));
    *world.neighbours.volumes.lock().unwrap() = kept.to_vec();
    let of_app = world.client.app_volumes("live").await.unwrap();
    assert_eq!((of_app.len(), &*of_app[0].id), (1, "live-db-data"));
    let has_owner = world.client.remove_volume(None, "live-db-data", None).await.unwrap_err();
    assert!(has_owner.is_conflict(), "{has_owner}");
    world.client.remove_volume(None, "stray-db-data", None).await.unwrap();
    world.client.delete_app("shop").await.unwrap();
    let retention = world.config.retention.with_delay(Duration::ZERO);
    let hasty = controller::Config { retention, ..world.config.clone() };
    controller::start(hasty, &world.lifetime).await.unwrap();
    let row = format!("SELECT count(*) FROM apps WHERE app_id = '{}'", gone.id.uuid());
    testkit::wait_until("the app is forgotten", async || match world.number(&row).await {
        0 => Ok(()),
        rows => Err(rows),
    })
    .await;
    assert_eq!(*world.neighbours.volumes.lock().unwrap(), [volume("live-db-data", &[])]);
}
