//! Images go from host to host.

use std::{process::Command, time::Duration};

use api::{discoverd::Instance, host::Status};
use axum::{
    Router,
    body::Bytes,
    http::{StatusCode, header::ETAG},
    routing::get,
};
use daemon::Lifetime;
use futures_util::{StreamExt, TryStreamExt};
use testkit::wait_until_for;
use tokio::net::TcpListener;

use crate::support::{Fixture, IMAGE, LIMIT, docker, ended, is, meta, shell};

/// A host that gives one answer to everything, known to another.
async fn peer(host: &Fixture, id: &str, answer: (StatusCode, Bytes), lifetime: &Lifetime) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let answer = move || std::future::ready(answer.clone());
    lifetime.serve(listener, Router::new().route("/host/images/{*name}", get(answer)));
    host.discoverd.put("flynn-host", Instance::new("http", &addr, meta(&[("id", id)])));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_missing_comes_from_a_host_that_has_it() {
    let (host, lifetime) = (Fixture::start().await, Lifetime::default());
    let name = format!("flynn-host-test/{}:1", host.prefix);
    docker(&["tag", IMAGE, &name]);
    let packed = host.client().image(&name).await.unwrap();
    let packed: Vec<Bytes> = packed.try_collect().await.unwrap();
    let packed = Bytes::from(packed.concat());
    docker(&["rmi", &name]);
    assert!(host.client().image(&name).await.err().unwrap().is_not_found());

    let mut job = shell("echo runs");
    job.image.clone_from(&name);
    let failed = host.run(&job, ended).await;
    assert_eq!(failed.status, Status::Failed);
    assert!(failed.error.as_ref().unwrap().contains("nor on another"), "{failed:?}");

    // One does not have it, one breaks off in the middle, one has it.
    peer(&host, "without", (StatusCode::NOT_FOUND, Bytes::new()), &lifetime).await;
    let torn = packed.slice(..packed.len() / 2);
    peer(&host, "torn", (StatusCode::OK, torn), &lifetime).await;
    peer(&host, "whole", (StatusCode::OK, packed), &lifetime).await;
    wait_until_for(LIMIT, "a job of that image runs", async || {
        // The first may come before the host knows the others.
        let mut job = shell("echo runs");
        job.image.clone_from(&name);
        let done = host.run(&job, ended).await;
        if done.status == Status::Done { Ok(()) } else { Err(done.error) }
    })
    .await;
    assert_eq!(tags(&name), NONE, "it bears our name only, by which it goes");
    let own = tags(&format!("{}-image", host.prefix));
    assert_eq!(own.len(), 1, "{own:?}");
    docker(&["rmi", &own[0]]);
    lifetime.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_given_to_who_has_the_key_and_under_its_name_only() {
    let host = Fixture::start().await;
    let stranger = host_client::Host::new(host.url(), Some("wrong".into()));
    assert!(stranger.image(IMAGE).await.is_err());
    assert!(host.client().image("../containers/json").await.is_err());
    let first = host.client().image(IMAGE).await.unwrap().boxed().next().await.unwrap();
    assert!(!first.unwrap().is_empty());
}

/// An image that is on no host any longer: its id and what `docker save` wrote of it.
fn packed_image(host: &Fixture) -> (String, Bytes) {
    let container =
        docker(&["create", "--name", &format!("{}-packed", host.prefix), IMAGE, "true"]);
    let id = docker(&["commit", "-m", &host.prefix, container.trim()]);
    docker(&["rm", container.trim()]);
    let saved = Command::new("docker").args(["save", id.trim()]).output().unwrap();
    assert!(saved.status.success(), "{saved:?}");
    docker(&["rmi", id.trim()]);
    (id.trim().to_owned(), saved.stdout.into())
}

const NONE: [&str; 0] = [];

/// The names that images have in a repository.
fn tags(repository: &str) -> Vec<String> {
    let listed = docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", repository]);
    listed.lines().map(str::to_owned).collect()
}

/// A shelf that has one blob at one path.
async fn shelf_with(path: String, blob: Bytes, lifetime: &Lifetime) -> String {
    let answer = get(async move || ([(ETAG, format!("\"{}\"", "0".repeat(64)))], blob));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    lifetime.serve(listener, Router::new().route(&path, answer));
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_pushed_is_loaded_from_shelf_by_its_id() {
    let lifetime = Lifetime::default();
    let maker = Fixture::start().await;
    let (id, packed) = packed_image(&maker);
    let hex = id.trim_start_matches("sha256:").to_owned();
    let url = shelf_with(format!("/images/{hex}.tar"), packed.clone(), &lifetime).await;
    let host = Fixture::start_with(|config| {
        config.shelf = Some(url);
        config.garbage_every = Duration::from_millis(200);
        config.unused_images = 0;
    })
    .await;
    let mut job = shell("echo runs; sleep 1000");
    job.image.clone_from(&id);
    host.run(&job, is(Status::Running)).await;
    let own = format!("{}-image:{hex}", host.prefix);
    assert_eq!(tags(&own), std::slice::from_ref(&own));
    // A second job finds it here.
    let mut second = shell("echo runs");
    second.image.clone_from(&id);
    let done = host.run(&second, ended).await;
    assert_eq!((done.status, done.error), (Status::Done, None));
    assert_eq!(tags(&own), std::slice::from_ref(&own), "a job has it");
    host.client().stop_job(job.id).await.unwrap();
    wait_until_for(LIMIT, "the image that no job wants is gone", async || {
        let there = docker(&["images", "-aq", "--no-trunc"]);
        if there.contains(&id) { Err(there) } else { Ok(()) }
    })
    .await;
    let other = format!("sha256:{}", "f".repeat(64));
    let mut job = shell("echo runs");
    job.image.clone_from(&other);
    let failed = host.run(&job, ended).await;
    assert_eq!(failed.status, Status::Failed);
    assert!(failed.error.unwrap().contains("could not be fetched from shelf"));

    let url = shelf_with(format!("/images/{}.tar", "f".repeat(64)), packed, &lifetime).await;
    let host = Fixture::start_with(|config| config.shelf = Some(url)).await;
    let mut job = shell("echo runs");
    job.image.clone_from(&other);
    let failed = host.run(&job, ended).await;
    assert!(failed.error.unwrap().contains("holds another one"));
    lifetime.end();
}
