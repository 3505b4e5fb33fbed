//! Volumes are listed with their sizes, and removed when no job has them.

#![expect(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod support;

use api::host::Status;
use serde_json::json;
use support::{Fixture, LIMIT, ended, is, shell_with};
use testkit::wait_until_for;

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
