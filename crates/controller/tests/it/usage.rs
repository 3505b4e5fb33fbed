//! Who uses the disk.

use api::{
    blob::Blob,
    controller::{ArtifactType, NewArtifact, NewRelease},
    expand::volume_name,
    volume::{HostVolume, Size},
};

use crate::world::World;

#[tokio::test]
async fn what_shelf_and_hosts_keep_is_told_by_app() {
    let world = World::start().await;
    let app = world.app("shop").await;
    world.app("idle").await;
    let slug = NewArtifact {
        id: None,
        kind: ArtifactType::File,
        uri: "http://shelf.discoverd/slugs/aa.tgz".into(),
        meta: [("sha256".to_owned(), "aa".to_owned())].into(),
    };
    let slug = world.client.create_artifact(&slug).await.unwrap();
    let release =
        NewRelease { app_id: Some(app.id), artifacts: vec![slug.id], ..NewRelease::default() };
    world.client.create_release(&release).await.unwrap();
    for (path, size) in
        [("/slugs/aa.tgz".to_owned(), 1000), (format!("/cache/{}.tgz", app.id), 200)]
    {
        let modified = jiff::Timestamp::now();
        let blob = Blob { path: path.clone(), size, sha256: "aa".into(), modified };
        world.neighbours.blobs.lock().unwrap().insert(path, blob);
    }
    let volume = HostVolume {
        name: volume_name(app.id, "db", "/data"),
        size: Size { bytes: 30, at_least: false },
        jobs: vec![],
    };
    world.neighbours.volumes.lock().unwrap().push(volume);
    let usage = world.client.usage().await.unwrap();
    let shop = usage.iter().find(|usage| usage.app == Some(app.id)).unwrap();
    assert_eq!((shop.slugs, shop.cache, shop.volumes, shop.total()), (1000, 200, 30, 1230));
    let idle = usage.iter().find(|usage| usage.app_name.as_deref() == Some("idle")).unwrap();
    assert_eq!(idle.total(), 0);
}
