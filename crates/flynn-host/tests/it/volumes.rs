//! Volumes are listed with their sizes, and removed when no job has them.

use std::os::unix::fs::MetadataExt;

use api::host::Status;
use serde_json::json;
use testkit::wait_until_for;

use crate::support::{Fixture, LIMIT, ended, image_with, is, shell_with};

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_goes_when_no_job_has_it_and_not_before() {
    let host = Fixture::start().await;
    let client = host.client();
    let volume = |name: &str| json!({ "volumes": [{ "name": name, "path": "/data" }] });
    let job = shell_with(
        "head -c 3000000 /dev/zero > /data/file; sync; sleep 1000",
        volume("app.db.data"),
    );
    host.run(&job, is(Status::Running)).await;
    host.run(&shell_with("true", volume("left")), ended).await;
    let folder = host.dir.path().join("volumes");
    wait_until_for(LIMIT, "the file is written", async || {
        let length = std::fs::metadata(folder.join("app.db.data/file")).map(|file| file.len());
        if length.as_ref().is_ok_and(|n| *n == 3_000_000) { Ok(()) } else { Err(length) }
    })
    .await;
    let volumes = client.volumes().await.unwrap();
    let names: Vec<_> = volumes.iter().map(|volume| &*volume.name).collect();
    assert_eq!(names, ["app.db.data", "left"]);
    assert!(volumes[0].size.bytes >= 3_000_000 && !volumes[0].size.at_least, "{volumes:?}");
    assert_eq!((&volumes[0].jobs[..], volumes[1].jobs.len()), (&[job.id][..], 0));

    let refused = client.remove_volume("app.db.data").await.unwrap_err();
    assert!(
        refused.is_conflict() && refused.to_string().contains(&job.id.to_string()),
        "{refused}"
    );
    for name in ["nothing", ".going-x"] {
        assert!(client.remove_volume(name).await.unwrap_err().is_not_found(), "{name}");
    }
    client.remove_volume("left").await.unwrap();
    assert!(client.remove_volume("left").await.unwrap_err().is_not_found());
    client.stop_job(job.id).await.unwrap();
    host.wait(job.id, ended).await;
    client.remove_volume("app.db.data").await.unwrap();
    assert!(client.volumes().await.unwrap().is_empty());
    wait_until_for(LIMIT, "their files are gone", async || {
        let left = std::fs::read_dir(&folder).unwrap().count();
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    // Their names are free again.
    host.run(&shell_with("test ! -e /data/file", volume("app.db.data")), |job| {
        job.exit_status == Some(0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_volume_stays_whose_it_is_while_a_job_is_at_work_in_it() {
    let host = Fixture::start().await;
    let volume = || json!({ "volumes": [{ "name": "both", "path": "/data", "shared": true }] });
    let serving = shell_with(
        "touch /data/one; until [ -e /data/two ]; do sleep 0.1; done; touch /data/three; exec sleep 1000",
        volume(),
    );
    host.run(&serving, is(Status::Running)).await;
    let folder = host.dir.path().join("volumes/both");
    let there = async |name: &str| {
        wait_until_for(LIMIT, "the job writes", async || {
            std::fs::metadata(folder.join(name)).map(|file| file.uid()).map_err(|e| e.to_string())
        })
        .await
    };
    assert_eq!(there("one").await, 1000);
    // The next release's image has another user.
    let image = image_with(&host, "web:x:1001:1001::/:/bin/sh\n", "1001");
    let mut next = shell_with("touch /data/two && id -u", volume());
    next.image.clone_from(&image);
    let done = host.run(&next, ended).await;
    assert_eq!(done.status, Status::Done, "{done:?}");
    assert_eq!(there("three").await, 1000, "the one that serves still writes");
    host.client().stop_job(serving.id).await.unwrap();
    host.wait(serving.id, ended).await;
    let mut alone = shell_with("echo of $(id -u) > /data/one", volume());
    alone.image = image;
    let done = host.run(&alone, ended).await;
    assert_eq!((done.status, there("one").await), (Status::Done, 1001));
}
