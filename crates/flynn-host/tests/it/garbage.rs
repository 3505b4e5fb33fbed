//! What nobody uses any more goes, and nothing else.

use std::time::Duration;

use api::host::Status;
use serde_json::json;
use testkit::wait_until_for;

use crate::support::{Fixture, IMAGE, LIMIT, docker, ended, is, shell_with, user_of};

const SOON: Duration = Duration::from_millis(200);

fn image(host: &Fixture, digest: &str) -> String {
    format!("{}-slug:{digest}-{}", host.prefix, user_of("a1"))
}

/// An image like that of a slug.
fn slug_image(host: &Fixture, digest: &str) {
    let repository = format!("flynn.slug.repository={}-slug", host.prefix);
    let base = docker(&["image", "inspect", "-f", "{{.Id}}", IMAGE]);
    let base = format!("flynn.slug.base={}", base.trim());
    let labels = ["--label", &repository, "--label", &base];
    let made = docker(&[&["create"][..], &labels, &[IMAGE]].concat());
    docker(&["commit", made.trim(), &image(host, digest)]);
    docker(&["rm", made.trim()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_uses_goes_and_what_a_job_has_stays() {
    let host = Fixture::start_with(|config| {
        config.garbage_every = SOON;
        config.unused_images = 1;
        config.unused_volume_age = Some(Duration::ZERO);
        config.ended_jobs = 1;
    })
    .await;
    let [used, old, new] = ["a", "b", "c"].map(|digit| digit.repeat(64));
    slug_image(&host, &used);
    let volume = |name: &str| json!({ "volumes": [{ "name": name, "path": "/data" }] });
    let mut job = shell_with("sleep 1000", volume("kept"));
    job.slug = serde_json::from_value(json!({ "path": "/s.tgz", "sha256": used })).unwrap();
    host.run(&job, is(Status::Running)).await;
    host.run(&shell_with("true", volume("left")), ended).await;
    // The one ended job that is remembered, in place of that one.
    host.run(&shell_with("true", json!({})), ended).await;
    // Left by a daemon that ended in the middle of it, and what is not ours.
    let volumes = host.dir.path().join("volumes");
    std::fs::create_dir(volumes.join(".going-left")).unwrap();
    std::fs::create_dir(volumes.join("lost+found")).unwrap();
    let stray = format!("flynn.host={}", host.prefix);
    docker(&["create", "--name", &format!("{}-job-stray", host.prefix), "--label", &stray, IMAGE]);
    slug_image(&host, &old);
    let exists = |digest: &str| !docker(&["images", "-q", &image(&host, digest)]).is_empty();
    wait_until_for(LIMIT, "volume and container of nobody are gone", async || {
        let left = volumes.join("left").exists() || volumes.join(".going-left").exists();
        let stray = docker(&["ps", "-aq", "--filter", &format!("name={}-job-stray", host.prefix)]);
        if !left && stray.is_empty() { Ok(()) } else { Err((left, stray)) }
    })
    .await;
    assert!(exists(&old), "one unused image is kept");
    slug_image(&host, &new);
    wait_until_for(LIMIT, "of two unused images the newer one is left", async || {
        let left = (exists(&old), exists(&new));
        if left == (false, true) { Ok(()) } else { Err(left) }
    })
    .await;
    assert!(exists(&used));
    assert!(volumes.join("kept").exists() && volumes.join("lost+found").exists());
    assert_eq!(host.client().job(job.id).await.unwrap().status, Status::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_claims_and_does_not_have_is_given_up() {
    let host = Fixture::start_several_with(|config| config.garbage_every = SOON).await;
    let config = json!({ "volumes": [{ "name": "kept", "path": "/data" }] });
    host.run(&shell_with("sleep 1000", config), is(Status::Running)).await;
    let etcd = host.keyspace().await;
    let key = |name: &str| format!("/flynn/volumes/{name}");
    // Its folder went while etcd was away.
    let claims = keyspace::Transaction::new()
        .put(key("lost"), host.prefix.clone())
        .put(key("others"), "other");
    etcd.commit(claims).await.unwrap();
    let left = wait_until_for(LIMIT, "the claim is given up", async || {
        let entries = etcd.list("/flynn/volumes/").await.map_err(|err| err.to_string())?.entries;
        let left: Vec<String> = entries.into_iter().map(|entry| entry.key).collect();
        if left.contains(&key("lost")) { Err(format!("{left:?}")) } else { Ok(left) }
    })
    .await;
    assert_eq!(left, [key("kept"), key("others")]);
}
