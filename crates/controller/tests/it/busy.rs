//! What three hundred deployments leave.

use std::time::Duration;

use api::{
    blob::Blob,
    controller::{App, ArtifactType, DeploymentStatus, META_BUILD, NewArtifact, NewHead, NewPush},
    id::ReleaseId,
};
use jiff::Timestamp;

use crate::{scheduler::Scheduler, world::World};

/// What of a push is in shelf.
fn store(world: &World, path: String) {
    let now = Timestamp::now();
    let blob = Blob { path: path.clone(), size: 1000, sha256: String::new(), modified: now };
    world.neighbours.blobs.lock().unwrap().insert(path, blob);
}

/// Pushes as gitreceived and the receiver do it: a pack, a slug, a release, a deployment; and waits for its end.
async fn push_and_deploy(world: &World, app: &App, n: u32) -> ReleaseId {
    let commit = |n: u32| format!("{n:040x}");
    let (slug, pack) = (format!("{n:064x}"), format!("/repos/{}/{:064x}.pack", app.id, n + 1000));
    store(world, format!("/slugs/{slug}.tgz"));
    store(world, pack.clone());
    let repository = world.client.repository(&app.name).await.unwrap();
    // Many packs become one.
    let seen = repository.packs;
    let before = if seen.len() == 24 { Vec::new() } else { seen.clone() };
    let artifact = |kind, uri: String, meta| NewArtifact { id: None, kind, uri, meta };
    let uri = format!("http://shelf.discoverd/slugs/{slug}.tgz");
    let push = NewPush {
        slug: artifact(ArtifactType::File, uri, [("sha256".to_owned(), slug)].into()),
        image: artifact(ArtifactType::Docker, "docker:///flynn/slugrunner".into(), [].into()),
        types: vec!["web".into()],
        config_vars: [].into(),
        meta: [(META_BUILD.to_owned(), n.to_string())].into(),
        head: NewHead {
            old: repository.head,
            new: commit(n),
            packs: before.into_iter().chain([pack]).collect(),
            packs_old: Some(seen),
        },
    };
    let deployment = world.client.push(&app.name, &push).await.unwrap();
    let deployment = world.client.wait_deployment(deployment.id, |_| {}).await.unwrap();
    assert_eq!(deployment.status, DeploymentStatus::Complete, "{deployment:?}");
    deployment.new_release
}

#[tokio::test]
async fn three_hundred_deployments_end_with_what_the_last_ten_need() {
    let mut world = World::start().await;
    Scheduler::start(&world.lifetime, &world.client);
    let app = world.app("busy").await;
    let mut releases = Vec::new();
    for n in 0..300 {
        releases.push(push_and_deploy(&world, &app, n).await);
    }
    assert_eq!(world.neighbours.blobs.lock().unwrap().len(), 600);

    // A controller deletes as soon as it starts.
    world.config.retention.delay = Duration::ZERO;
    controller::start(world.config.clone(), &world.lifetime).await.unwrap();
    let packs = world.client.repository("busy").await.unwrap().packs.len();
    testkit::wait_until("ten slugs and the packs of the repository are left", async || match world
        .neighbours
        .blobs
        .lock()
        .unwrap()
        .len()
    {
        left if left == 10 + packs => Ok(()),
        left => Err(left),
    })
    .await;
    let kept = world.client.releases("busy").await.unwrap();
    let kept: Vec<_> = kept.into_iter().map(|release| release.id).collect();
    assert!(kept.len() == 10 && releases[290..].iter().all(|id| kept.contains(id)), "{kept:?}");
    // The slugs of ten, the image, ten releases with their formations, and of deployments those between the ten.
    for (table, rows) in
        [("artifacts", 11), ("releases", 10), ("formations", 10), ("deployments", 9)]
    {
        assert_eq!(world.number(&format!("SELECT count(*) FROM {table}")).await, rows, "{table}");
    }
    assert_eq!(world.client.current_release("busy").await.unwrap().id, releases[299]);
    assert_eq!(world.client.formation("busy", releases[299]).await.unwrap().processes["web"], 1);

    // Events go by their age, when a controller starts and every ten minutes.
    world
        .sql("UPDATE events SET created_at = now() - interval '31 days' WHERE event_id % 2 = 0")
        .await;
    let young = world.number("SELECT count(*) FROM events WHERE event_id % 2 = 1").await;
    controller::start(world.config.clone(), &world.lifetime).await.unwrap();
    testkit::wait_until("old events are gone", async || {
        match world.number("SELECT count(*) FROM events").await {
            left if left == young => Ok(()),
            left => Err(left),
        }
    })
    .await;
}
