//! Limits, as the real engine keeps them, and what is said when a job passes one.

use api::host::{ActiveJob, EndReason, Job, Status};
use serde_json::json;
use testkit::wait_until_for;

use crate::support::{Fixture, IMAGE, LIMIT, docker, ended, is, shell, shell_with};

fn limited(line: &str, limits: serde_json::Value) -> Job {
    let mut job = shell(line);
    let mut all = serde_json::to_value(&job.limits).unwrap();
    all.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
    job.limits = serde_json::from_value(all).unwrap();
    job
}

/// Grows until it is killed.
const HOG: &str = "tail /dev/zero";

#[tokio::test(flavor = "multi_thread")]
async fn a_job_sees_its_limits() {
    let host = Fixture::start().await;
    // The two versions of cgroups have them in different files.
    let line = "cd /sys/fs/cgroup; \
        cat memory.max memory/memory.limit_in_bytes 2>/dev/null; \
        cat pids.max pids/pids.max 2>/dev/null; \
        cat cpu.weight cpu/cpu.shares 2>/dev/null; \
        ulimit -n; df -k /dev/shm | awk 'NR > 1 { print $2, $6 }'; \
        printf '#!/bin/sh\\necho runs\\n' > /tmp/x; chmod +x /tmp/x; /tmp/x";
    let limits = json!({ "memory": 64 << 20, "cpu": 500, "max_procs": 50, "max_fd": 300 });
    let job = limited(line, limits);
    host.run(&job, ended).await;
    let log = host.log(job.id, None, true).await;
    let log: Vec<&str> = log.iter().map(|(_, text)| text.as_str()).collect();
    // 512 of 1024 shares are 20 of 10,000 weights.
    assert!(matches!(log[2], "512" | "20"), "{log:?}");
    let half = (32 << 10).to_string();
    let shm = format!("{half} /dev/shm");
    let want = ["67108864", "50", log[2], "300", &shm, "runs"];
    assert_eq!(log, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_too_much_memory_ends_with_that_reason() {
    let host = Fixture::start().await;
    let job = limited(&format!("exec {HOG}"), json!({ "memory": 16 << 20 }));
    let why = "more memory than its limit of 16 MiB";
    // It may be known a moment after the end.
    let explained = |job: &ActiveJob| job.error.as_ref().is_some_and(|said| said.contains(why));
    let ended = host.run(&job, explained).await;
    assert_eq!((ended.status, ended.exit_status), (Status::Crashed, Some(137)));
    assert_eq!(ended.end_reason, Some(EndReason::LimitExceeded));
    let log = host.log(job.id, None, true).await;
    assert_eq!(log.len(), 1, "it is said once: {log:?}");
    assert!(log[0].1.starts_with("flynn: a process was killed"), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_killed_for_memory_is_said_while_the_job_goes_on() {
    let host = Fixture::start().await;
    let job = limited(&format!("{HOG}; sleep 1000"), json!({ "memory": 16 << 20 }));
    host.run(&job, is(Status::Running)).await;
    wait_until_for(LIMIT, "the log says that a process was killed", || async {
        let log = host.log(job.id, None, false).await;
        let said = log.iter().filter(|(_, text)| text.starts_with("flynn: a process was killed"));
        if said.count() == 1 { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(host.client().job(job.id).await.unwrap().status, Status::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_cannot_have_more_processes_or_open_files_than_its_limits() {
    let host = Fixture::start().await;
    let line = "(for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done); exec sleep 1000";
    let job = limited(line, json!({ "max_procs": 8 }));
    host.run(&job, is(Status::Running)).await;
    wait_until_for(LIMIT, "the job and its host say that it may not fork", || async {
        let log = host.log(job.id, None, false).await;
        let says = |word: &str| log.iter().any(|(_, text)| text.contains(word));
        if says("fork") && says("flynn: it has reached its limit of 8") { Ok(()) } else { Err(log) }
    })
    .await;
    // Each group keeps what the one around it had open.
    let line = "all=true; for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do all=\"{ $all; } 3</\"; done; eval \"$all\"";
    for (max_fd, opens) in [(16, false), (100, true)] {
        let job = limited(line, json!({ "max_fd": max_fd }));
        assert_eq!(host.run(&job, ended).await.exit_status == Some(0), opens, "{max_fd}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_writes_too_much_is_stopped_with_that_reason() {
    let host = Fixture::start().await;
    let volume = json!({ "volumes": [{ "name": "limits-data", "path": "/data" }] });
    let fill =
        |file: &str| format!("dd if=/dev/zero of={file} bs=1M count=4; echo wrote; sleep 1000");
    let mut writer = shell(&fill("/app/file"));
    writer.limits.temp_disk = 2 << 20;
    let mut careful = shell_with(&fill("/data/file"), volume);
    careful.limits.temp_disk = 2 << 20;
    host.run(&careful, is(Status::Running)).await;
    // Temporary files are on disk as well: more than memory would hold, and within the same limit.
    let mut spooler = shell("dd if=/dev/zero of=/tmp/upload bs=1M count=96 && echo spooled");
    spooler.limits.temp_disk = 128 << 20;
    assert_eq!(host.run(&spooler, ended).await.exit_status, Some(0));
    let stopped = host.run(&writer, ended).await;
    assert_eq!(
        (stopped.status, stopped.end_reason),
        (Status::Crashed, Some(EndReason::LimitExceeded))
    );
    let said = stopped.error.unwrap();
    assert!(said.contains("wrote 4 MiB") && said.contains("limit of 2 MiB"), "{said}");
    let log = host.log(writer.id, None, true).await;
    assert!(log.iter().any(|(_, text)| text.starts_with("flynn: it wrote")), "{log:?}");
    // By now the other was measured as often.
    assert_eq!(host.client().job(careful.id).await.unwrap().status, Status::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_image_keeps_outside_of_its_layers_is_within_the_limit() {
    let host = Fixture::start().await;
    let image = format!("flynn-host-test/{}:volumes", host.prefix);
    let made = docker(&["create", IMAGE]);
    docker(&["commit", "-c", "VOLUME /app /www", made.trim(), &image]);
    docker(&["rm", made.trim()]);
    let with_volumes = |line: &str| {
        let mut job = shell(line);
        job.image.clone_from(&image);
        job.limits.temp_disk = 2 << 20;
        job
    };
    let small = with_volumes("cat /www/index.html; echo x >/app/file && cat /app/file");
    let done = host.run(&small, ended).await;
    let log = host.log(small.id, None, true).await;
    let log: Vec<&str> = log.iter().map(|(_, msg)| msg.as_str()).collect();
    assert_eq!((done.exit_status, &log[..]), (Some(0), &["it works", "x"][..]));
    let large = "dd if=/dev/zero of=/app/file bs=1M count=4; sleep 1000";
    let stopped = host.run(&with_volumes(large), ended).await;
    assert_eq!(stopped.end_reason, Some(EndReason::LimitExceeded), "{stopped:?}");
    assert!(stopped.error.unwrap().contains("wrote 4 MiB"));
    let left = host.dir.path().join("scratch");
    wait_until_for(LIMIT, "nothing is left of it", async || {
        let left: Vec<_> = std::fs::read_dir(&left).unwrap().map(|one| one.unwrap()).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    docker(&["rmi", &image]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_writes_much_at_once_is_not_waited_for() {
    let host = Fixture::start_with(|config| config.measured_every = LIMIT * 60).await;
    let mut writer = shell("dd if=/dev/zero of=/app/file bs=1M count=64; sleep 1000");
    writer.limits.temp_disk = 16 << 20;
    let stopped = host.run(&writer, ended).await;
    assert_eq!(stopped.end_reason, Some(EndReason::LimitExceeded), "{stopped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_longer_than_it_may_is_stopped_with_that_reason() {
    let host = Fixture::start().await;
    let job = shell_with("exec sleep 1000", json!({ "time_limit_seconds": 1 }));
    let stopped = host.run(&job, ended).await;
    assert_eq!(
        (stopped.status, stopped.end_reason),
        (Status::Crashed, Some(EndReason::LimitExceeded))
    );
    let said = stopped.error.unwrap();
    assert!(said.contains("it ran for 1s, which is its time limit"), "{said}");
    let log = host.log(job.id, None, true).await;
    assert!(log.iter().any(|(_, text)| text.starts_with("flynn: it ran for 1s")), "{log:?}");
}
