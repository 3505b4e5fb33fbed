//! Slugs.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use api::host::{Job, META_APP, Slug, Status};
use axum::{Router, body::Bytes, routing::get};
use daemon::Lifetime;
use http::header::ETAG;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use crate::support::{Fixture, docker, ended, shell, shell_with, user_of};

/// A slug with one file, as a builder run by root would pack it.
fn slug() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    std::fs::write(dir.path().join("bin/hello"), "#!/bin/sh\necho hello from the slug\n").unwrap();
    // Below a folder the engine takes no link that leads out of it; a repository may have one.
    std::os::unix::fs::symlink("../../outside", dir.path().join("out")).unwrap();
    std::fs::write(dir.path().join("n".repeat(120)), "").unwrap();
    let tar = Command::new("tar")
        .args(["--owner=0", "--group=0", "--mode=u+rwx", "-C"])
        .arg(dir.path())
        .args(["-cf", "-", "."])
        .output()
        .unwrap();
    let mut gzip = Command::new("gzip");
    let mut gzip = gzip.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    gzip.stdin.take().unwrap().write_all(&tar.stdout).unwrap();
    gzip.wait_with_output().unwrap().stdout
}

/// A shelf that has one blob at every path, and counts.
async fn shelf(blob: Vec<u8>, lifetime: &Lifetime) -> (String, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let counted = asked.clone();
    let etag = format!("\"{}\"", hex::encode(Sha256::digest(&blob)));
    let blob = Bytes::from(blob);
    let router = Router::new().route(
        "/{*path}",
        get(async move || {
            counted.fetch_add(1, Ordering::SeqCst);
            ([(ETAG, etag)], blob)
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    lifetime.serve(listener, router);
    (url, asked)
}

fn job(sha256: &str) -> Job {
    let mut job = shell(
        "ls -ldn /app /app/bin/hello; env | grep SECRET; /app/bin/hello; readlink /app/out; ls /app | grep -c nnnn",
    );
    job.slug = Some(Slug { path: format!("/slugs/{sha256}.tgz"), sha256: sha256.into() });
    job.config.env.insert("SECRET".into(), "s".into());
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_becomes_an_image_once_and_belongs_to_the_app() {
    let lifetime = Lifetime::default();
    let slug = slug();
    let sha256 = hex::encode(Sha256::digest(&slug));
    let (url, asked) = shelf(slug, &lifetime).await;
    let host = Fixture::start_with(|config| config.shelf = Some(url)).await;
    let (one, two) = (job(&sha256), job(&sha256));
    let client = host.client();
    let (a, b) = tokio::join!(client.put_job(&one), client.put_job(&two));
    a.unwrap();
    b.unwrap();
    for id in [one.id, two.id] {
        let done = host.wait(id, ended).await;
        assert_eq!((done.status, done.error), (Status::Done, None));
        let log = host.log(id, None, true).await;
        let log: Vec<&str> = log.iter().map(|(_, msg)| msg.as_str()).collect();
        assert_eq!(log[3..], ["hello from the slug", "../../outside", "1"], "{log:?}");
        let user = user_of("a1");
        let owner = format!(" {user}  {user} ");
        assert!(log[..2].iter().all(|line| line.contains(&owner)), "{log:?}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let image = format!("{}-slug:{sha256}-{}", host.prefix, user_of("a1"));
    let inherited = docker(&["inspect", "-f", "{{json .Config}}", &image]);
    assert!(!inherited.contains("SECRET") && !inherited.contains("flynn.job"), "{inherited}");
    lifetime.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_app_has_a_user_of_its_own_with_a_name_and_its_volumes_are_that_users() {
    use std::os::unix::fs::chown;

    let lifetime = Lifetime::default();
    let slug = slug();
    let sha256 = hex::encode(Sha256::digest(&slug));
    let (url, _) = shelf(slug, &lifetime).await;
    let host = Fixture::start_with(|config| config.shelf = Some(url)).await;
    // As hosts before this one made it, when every app was user 1000.
    let volume = host.dir.path().join("volumes/old");
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::write(volume.join("kept"), "kept").unwrap();
    for path in [&volume, &volume.join("kept")] {
        chown(path, Some(1000), Some(1000)).unwrap();
    }
    let line = "id -u; id -un; cat /data/kept 2>/dev/null; echo -n more >>/data/kept && echo wrote";
    for app in ["a1", "a2"] {
        let mounted = if app == "a1" { "old" } else { "new" };
        let volumes = serde_json::json!({ "volumes": [{ "name": mounted, "path": "/data" }] });
        let mut job = shell_with(line, volumes);
        job.slug = Some(Slug { path: format!("/slugs/{sha256}.tgz"), sha256: sha256.clone() });
        job.metadata.insert(META_APP.into(), app.into());
        let done = host.run(&job, ended).await;
        let log = host.log(job.id, None, true).await;
        let log: Vec<&str> = log.iter().map(|(_, msg)| msg.as_str()).collect();
        assert_eq!((done.exit_status, done.error), (Some(0), None), "{log:?}");
        assert_eq!(log[..2], [user_of(app).to_string().as_str(), "flynn"], "{log:?}");
        assert_eq!(app == "a1", log[2].starts_with("kept"), "{log:?}");
    }
    assert_ne!(user_of("a1"), user_of("a2"));
    lifetime.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_that_is_another_or_no_archive_is_not_run() {
    let lifetime = Lifetime::default();
    let (url, _) = shelf(slug(), &lifetime).await;
    let host = Fixture::start_with(|config| config.shelf = Some(url)).await;
    let failed = host.run(&job(&"0".repeat(64)), ended).await;
    assert_eq!(failed.status, Status::Failed);
    assert!(failed.error.as_ref().unwrap().contains("is not the one that was built"), "{failed:?}");
    let left = docker(&["ps", "-aq", "--filter", &format!("name={}-", host.prefix)]);
    assert_eq!(left, "");

    let garbage = b"no archive".to_vec();
    let sha256 = hex::encode(Sha256::digest(&garbage));
    let (url, _) = shelf(garbage, &lifetime).await;
    let host = Fixture::start_with(|config| config.shelf = Some(url)).await;
    let failed = host.run(&job(&sha256), ended).await;
    assert!(failed.error.unwrap().contains("could not be unpacked"));
    lifetime.end();
}
