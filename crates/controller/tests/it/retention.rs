//! What is kept, and what is not.

use std::time::Duration;

use api::{
    blob::Blob,
    controller::{
        App, ArtifactType, Collected, NewArtifact, NewFormation, NewRelease, ProcessType, Release,
    },
    expand::volume_name,
    id::AppId,
    volume::{HostVolume, Size},
};
use jiff::Timestamp;

use crate::{
    neighbours::HOST,
    scheduler::Scheduler,
    world::{World, client},
};

/// Stores a blob in shelf.
fn store(world: &World, path: &str, sha256: &str) {
    let (path, sha256) = (path.to_owned(), sha256.to_owned());
    let blob = Blob { path: path.clone(), size: 1000, sha256, modified: Timestamp::now() };
    world.neighbours.blobs.lock().unwrap().insert(path, blob);
}

/// Waits until `left` blobs are left in shelf.
async fn wait_for_blobs(world: &World, left: usize) {
    testkit::wait_until("shelf has only what is kept", async || {
        match world.neighbours.blobs.lock().unwrap().len() {
            there if there == left => Ok(()),
            there => Err(there),
        }
    })
    .await;
}

/// Waits until no controller deletes.
async fn wait_for_turn(world: &World) {
    let turns = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    testkit::wait_until("it is anybody's turn to delete", async || {
        match world.number(turns).await {
            0 => Ok(()),
            held => Err(held),
        }
    })
    .await;
}

/// A controller that keeps nothing for its youth. What it deletes by itself when it starts is deleted: later that would be
/// a slug whose artifact is not yet made.
async fn start_without_delay() -> World {
    let mut world = World::without_controller().await;
    world.config.retention.delay = Duration::ZERO;
    store(&world, "/slugs/ff.tgz", "ff");
    let running = controller::start(world.config.clone(), &world.lifetime).await.unwrap();
    world.client = client(running.addr);
    wait_for_blobs(&world, 0).await;
    wait_for_turn(&world).await;
    world
}

/// Pushes once, as the receiver does: a slug in shelf, an artifact that names it, a release, a deployment.
async fn push(world: &World, app: &App, n: u32) -> Release {
    let sha256 = format!("{n:064x}");
    let path = format!("/slugs/{sha256}.tgz");
    store(world, &path, &sha256);
    let slug = NewArtifact {
        id: None,
        kind: ArtifactType::File,
        uri: format!("http://shelf.discoverd{path}"),
        meta: [("sha256".to_owned(), sha256)].into(),
    };
    let slug = world.client.create_artifact(&slug).await.unwrap();
    let new = NewRelease {
        app_id: Some(app.id),
        artifacts: vec![slug.id],
        processes: [("web".to_owned(), ProcessType::default())].into(),
        ..NewRelease::default()
    };
    world.client.create_release(&new).await.unwrap()
}

#[tokio::test]
async fn three_hundred_releases_end_with_the_disk_use_of_the_last_ten() {
    let world = start_without_delay().await;
    let app = world.app("many").await;
    let none = NewFormation { processes: [("web".to_owned(), 0)].into() };
    let mut releases = Vec::new();
    for n in 0..300 {
        let release = push(&world, &app, n).await;
        world.client.put_formation("many", release.id, &none).await.unwrap();
        releases.push(release.id);
        if n == 0 {
            world.client.set_release("many", release.id).await.unwrap();
        }
    }
    // An old release still runs something: it stays, with its slug.
    let some = NewFormation { processes: [("web".to_owned(), 1)].into() };
    world.client.put_formation("many", releases[5], &some).await.unwrap();
    let serving = world.client.current_release("many").await.unwrap().id;
    assert_eq!(world.neighbours.blobs.lock().unwrap().len(), 300);

    let done = world.client.collect("many").await.unwrap();
    assert_eq!((done.releases, done.blobs, done.bytes), (288, 288, 288_000), "{done:?}");
    let kept: Vec<_> = world.client.releases("many").await.unwrap();
    let kept: Vec<_> = kept.into_iter().map(|release| release.id).collect();
    assert_eq!(kept.len(), 12);
    for needed in releases[290..].iter().chain([&releases[5], &serving]) {
        assert!(kept.contains(needed), "a release that is needed is gone");
    }
    let slugs = world.neighbours.blobs.lock().unwrap().len();
    assert_eq!(slugs, 12, "slugs left");
    assert_eq!(world.client.collect("many").await.unwrap(), Collected::default());
}

/// A request is dropped with its client, wherever it is at the moment.
#[tokio::test]
async fn a_collection_whose_client_goes_is_finished_and_leaves_the_turn_to_others() {
    let world = start_without_delay().await;
    let app = world.app("one").await;
    for n in 0..12 {
        push(&world, &app, n).await;
    }
    world.neighbours.gate.shut("blobs");
    tokio::select! {
        done = world.client.collect("one") => panic!("it waits for shelf: {done:?}"),
        () = world.neighbours.gate.reached() => {}
    }
    world.neighbours.gate.open();
    wait_for_blobs(&world, 10).await;
    wait_for_turn(&world).await;
    assert_eq!(world.client.collect("one").await.unwrap(), Collected::default());
}

/// The tables with rows that name something.
async fn tables_naming(world: &World, what: &str) -> Vec<String> {
    let db = pg::Pool::new(world.config.database.clone(), 1);
    db.migrate(refinery::Runner::new(&[]).set_abort_missing(false)).await;
    let db = db.client().await.unwrap();
    let sql = "SELECT relname::text FROM pg_class \
               WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    let mut naming = Vec::new();
    for table in pg::rows(&db, sql, &[]).await.unwrap() {
        let table: String = table.get(0);
        let sql = format!("SELECT 1 FROM {table} t WHERE strpos(t::text, $1) > 0 LIMIT 1");
        if pg::row_opt(&db, &sql, &[&what]).await.unwrap().is_some() {
            naming.push(table);
        }
    }
    naming
}

#[tokio::test]
async fn nothing_knows_an_app_that_was_deleted_once_its_time_is_over() {
    let world = World::start().await;
    let app = world.app("gone").await;
    Scheduler::start(&world.lifetime, &world.client);
    let release = world.release(&app, &["web"], "serve").await;
    world.deploy(&app, &release).await;
    let uuid = app.id.uuid().to_string();
    let kept = |app: AppId| HostVolume {
        name: volume_name(app, "web", "/data"),
        size: Size::default(),
        jobs: Vec::new(),
    };
    let others = kept(AppId::random());
    *world.neighbours.volumes.lock().unwrap() = vec![kept(app.id), others.clone()];
    let named = tables_naming(&world, &uuid).await;
    for table in ["apps", "deployments", "events", "formations", "jobs", "releases", "services"] {
        assert!(named.iter().any(|one| one == table), "{table}: {named:?}");
    }
    world.client.delete_app("gone").await.unwrap();
    let retention = controller::Retention { history: Duration::ZERO, ..world.config.retention };
    let hasty = controller::Config {
        retention: retention.with_delay(Duration::ZERO),
        ..world.config.clone()
    };
    controller::start(hasty, &world.lifetime).await.unwrap();
    testkit::wait_until_for(testkit::LIMIT, "no table names it", async || {
        let left = tables_naming(&world, &uuid).await;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    assert_eq!(*world.neighbours.volumes.lock().unwrap(), [others], "its volume goes, no other");
}

#[tokio::test]
async fn no_app_is_forgotten_while_a_host_is_unknown() {
    let mut world = World::start().await;
    let app = world.app("gone").await;
    world.client.delete_app("gone").await.unwrap();
    let kept = HostVolume {
        name: volume_name(app.id, "web", "/data"),
        size: Size::default(),
        jobs: Vec::new(),
    };
    *world.neighbours.volumes.lock().unwrap() = vec![kept.clone()];
    world.config.retention = world.config.retention.with_delay(Duration::ZERO);
    let rows = format!("SELECT count(*) FROM apps WHERE app_id = '{}'", app.id.uuid());
    for hosts in [vec![], vec![HOST.to_owned(), "host-2".to_owned()]] {
        *world.neighbours.hosts.lock().unwrap() = hosts.clone();
        // It goes when all else of a round is done.
        store(&world, "/slugs/ff.tgz", "ff");
        controller::start(world.config.clone(), &world.lifetime).await.unwrap();
        wait_for_blobs(&world, 0).await;
        assert_eq!(world.number(&rows).await, 1, "{hosts:?}");
    }
    *world.neighbours.hosts.lock().unwrap() = vec![HOST.to_owned()];
    controller::start(world.config.clone(), &world.lifetime).await.unwrap();
    testkit::wait_until("the app is forgotten", async || match world.number(&rows).await {
        0 => Ok(()),
        rows => Err(rows),
    })
    .await;
    assert_eq!(*world.neighbours.volumes.lock().unwrap(), []);
}
