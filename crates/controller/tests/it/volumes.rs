//! Volumes: whose they are, how large, and which may go.

use api::{
    controller::{META_SYSTEM_APP, NewApp, NewFormation},
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
