//! A host whose disk is full.

use std::{io::Write, path::PathBuf};

use api::{discoverd::Term, error::ErrorCode, host::Status};
use host_client::Cluster;
use tempfile::TempDir;
use testkit::wait_until_for;

use crate::support::{Fixture, LIMIT, ended, is, run, shell};

/// A disk of 32 MiB at a folder. Make it before the host: it goes after it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &TempDir) -> Self {
        let at = at.path().to_owned();
        run("mount", &["-t", "tmpfs", "-o", "size=32m", "tmpfs", at.to_str().unwrap()]);
        Self(at)
    }

    /// Takes all that is left.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["-l", self.0.to_str().unwrap()]);
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_takes_no_job_but_a_critical_one_and_everything_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&dir);
    let host = Fixture::start_in(dir, |config| config.disk_reserve = 8 << 20).await;
    let cluster = Cluster::new(host.url(), Some(host.key("flynn-host")));
    let client = host.client();
    let full = |wanted: bool| {
        let (cluster, id) = (&cluster, &host.prefix);
        wait_until_for(LIMIT, "the cluster knows whether the disk is full", move || async move {
            let state = cluster.state().await.map_err(|err| err.to_string())?;
            let is = state.hosts.get(id).map(|host| host.is_full());
            if is == Some(wanted) { Ok(()) } else { Err(format!("{is:?}")) }
        })
    };
    let (one, two) = (shell("sleep 1000"), shell("while :; do echo x; usleep 1000; done"));
    host.run(&one, is(Status::Running)).await;
    host.run(&two, is(Status::Running)).await;
    full(false).await;
    let ballast = || {
        let path = disk.0.join("ballast");
        wait_until_for(LIMIT, "disk is set aside", move || {
            std::future::ready(if path.exists() { Ok(()) } else { Err("no ballast") })
        })
    };
    ballast().await;
    let filler = disk.fill();

    let refused = client.put_job(&shell("true")).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::ServiceUnavailable));
    assert!(refused.to_string().contains("bytes of disk left"), "{refused}");
    full(true).await;

    std::fs::remove_file(filler).unwrap();
    full(false).await;
    host.run(&shell("true"), ended).await;

    ballast().await;
    disk.fill();
    // A new leader's term has to be noted before its order is obeyed.
    let leader = client.with_term(Term { epoch: 9, revision: 1 });
    for job in [&one, &two] {
        leader.stop_job(job.id).await.unwrap();
        assert_eq!(host.wait(job.id, ended).await.status, Status::Done);
        let journal = std::fs::read(disk.0.join(format!("host/jobs/{}.json", job.id))).unwrap();
        assert!(String::from_utf8(journal).unwrap().contains("\"done\""), "its end is on disk");
    }
    let mut critical = shell("sleep 1000");
    critical.resurrect = true;
    leader.put_job(&critical).await.unwrap();
    host.wait(critical.id, is(Status::Running)).await;
}
