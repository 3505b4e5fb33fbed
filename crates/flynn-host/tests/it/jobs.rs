//! The life of jobs, over HTTP, on the real engine.

use std::time::Duration;

use api::{
    discoverd::Instance,
    error::ErrorCode,
    host::{ActiveJob, EndReason, EventKind, Status},
    id::JobId,
};
use serde_json::{Value, json};
use testkit::wait_until_for;

use crate::support::{
    Fixture, LIMIT, discoverd::REFUSED, docker, ended, is, kinds, meta, shell, shell_with, web,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_and_its_output_and_its_end_are_known() {
    let host = Fixture::start().await;
    let job = shell("echo out; echo err >&2; id -u; grep NoNewPrivs /proc/self/status; exit 3");
    let events = host.client().events().await.unwrap();
    host.client().put_job(&job).await.unwrap();
    let seen = tokio::time::timeout(LIMIT, kinds(events, job.id, EventKind::Stop)).await.unwrap();
    let want = [EventKind::Create, EventKind::Start, EventKind::Up, EventKind::Stop];
    // A process may end before it was seen to be up.
    assert!(seen == want || seen == [want[0], want[1], want[3]], "{seen:?}");
    let ended = host.client().job(job.id).await.unwrap();
    assert_eq!((ended.status, ended.exit_status), (Status::Crashed, Some(3)));
    assert_eq!(ended.error.as_deref(), Some("its process ended with status 3"));
    assert_eq!(ended.end_reason, Some(EndReason::Exited));
    let log = host.log(job.id, None, true).await;
    let of = |stream: &str| -> Vec<&str> {
        log.iter().filter(|(s, _)| s == stream).map(|(_, msg)| msg.as_str()).collect()
    };
    assert_eq!(of("stdout"), ["out", "1000", "NoNewPrivs:\t1"]);
    assert_eq!(of("stderr"), ["err"]);
    assert_eq!(host.log(job.id, Some(1), false).await.len(), 1);
    wait_until_for(LIMIT, "the container is gone", || async {
        let left = docker(&["ps", "-aq", "--filter", &format!("name={}-job-", host.prefix)]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_order_twice_is_one_and_another_of_that_id_is_refused() {
    let host = Fixture::start().await;
    let job = shell("sleep 100");
    let client = host.client();
    let (one, two) = tokio::join!(client.put_job(&job), client.put_job(&job));
    one.unwrap();
    two.unwrap();
    let mut other = job.clone();
    other.config.args.push("x".into());
    assert_eq!(client.put_job(&other).await.unwrap_err().code(), Some(ErrorCode::Conflict));
    let mut bad = shell("true");
    bad.config.linux_capabilities = vec!["SYS_ADMIN".into()];
    assert_eq!(client.put_job(&bad).await.unwrap_err().code(), Some(ErrorCode::ValidationError));
    assert!(client.job(JobId::random()).await.unwrap_err().is_not_found());
    let stranger = host_client::Host::new(host.url(), Some("wrong".into()));
    assert_eq!(stranger.jobs().await.unwrap_err().code(), Some(ErrorCode::Unauthorized));
    host.wait(job.id, is(Status::Running)).await;
    let containers = docker(&["ps", "-q", "--filter", &format!("name={}-job-", host.prefix)]);
    assert_eq!(containers.lines().count(), 1);
    assert_eq!(client.status().await.unwrap().jobs, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_registered_when_it_answers_and_withdrawn_before_it_is_stopped() {
    let host = Fixture::start().await;
    let job = web(json!({ "type": "http", "path": "/", "status": 200 }));
    let up = host.run(&job, is(Status::Running)).await;
    let addr = format!("{}:8080", up.internal_ip.unwrap());
    let registered = host.discoverd.instances("demo-web");
    assert_eq!(registered.len(), 1);
    assert_eq!(
        (registered[0].addr.as_str(), registered[0].proto.as_str()),
        (addr.as_str(), "http")
    );
    assert_eq!(registered[0].meta["FLYNN_JOB_ID"], job.id.to_string());
    assert_eq!(registered[0].meta["FLYNN_APP_NAME"], "demo");
    let answer = reqwest::get(format!("http://{addr}/")).await.unwrap().text().await.unwrap();
    assert_eq!(answer, "it works\n");
    host.client().stop_job(job.id).await.unwrap();
    let done = host.wait(job.id, ended).await;
    assert_eq!((done.status, done.error), (Status::Done, None));
    assert_eq!(done.end_reason, Some(EndReason::Stopped));
    assert!(host.discoverd.instances("demo-web").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_fails_its_check_after_it_was_up_is_shown_and_then_ended() {
    let host = Fixture::start().await;
    let check =
        json!({ "type": "http", "path": "/", "status": 200, "start_timeout": 3_000_000_000_u64 });
    let job = web(check);
    let up = host.run(&job, is(Status::Running)).await;
    let index = |from: &str, to: &str| {
        docker(&["exec", "-u", "0", &up.container_id, "mv", from, to]);
    };
    index("/www/index.html", "/www/away");
    let failing = host.wait(job.id, is(Status::Starting)).await;
    assert!(failing.error.unwrap().contains("status 404"));
    assert!(failing.ended_at.is_none());
    index("/www/away", "/www/index.html");
    assert_eq!(host.wait(job.id, is(Status::Running)).await.error, None);
    index("/www/index.html", "/www/away");
    let over = host.wait(job.id, ended).await;
    assert_eq!((over.status, over.end_reason), (Status::Crashed, Some(EndReason::CheckFailed)));
    assert!(over.error.unwrap().contains("status 404"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_needs_to_start_is_not_asked_again_once_it_serves() {
    let host = Fixture::start().await;
    let check = json!({ "type": "http", "path": "/", "start_path": "/ready", "status": 200 });
    let job = web(check);
    let begun = host.run(&job, |job| job.started_at.is_some()).await;
    wait_until_for(LIMIT, "it answers, and is not ready", || async {
        let url = format!("http://{}:8080/ready", begun.internal_ip.unwrap());
        let status = reqwest::get(url).await.map_err(|err| err.to_string())?.status().as_u16();
        if status == 404 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(host.client().job(job.id).await.unwrap().status, Status::Starting);
    let container = begun.container_id.as_str();
    docker(&["exec", "-u", "0", container, "cp", "/www/index.html", "/www/ready"]);
    host.wait(job.id, is(Status::Running)).await;
    docker(&["exec", "-u", "0", container, "rm", "/www/ready"]);
    docker(&["exec", "-u", "0", container, "mv", "/www/index.html", "/www/away"]);
    // The other path is asked, and says why.
    let failing = host.wait(job.id, is(Status::Starting)).await;
    assert!(failing.error.unwrap().contains("GET / was"));
    docker(&["exec", "-u", "0", container, "mv", "/www/away", "/www/index.html"]);
    host.wait(job.id, is(Status::Running)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_discovery_refuses_keeps_no_other_from_being_registered_again() {
    let host = Fixture::start().await;
    let mut refused = web(json!({ "type": "http", "path": "/", "status": 200 }));
    refused.config.ports[0].service.as_mut().unwrap().name = REFUSED.into();
    let said = |job: &ActiveJob| job.error.as_ref().is_some_and(|said| said.contains("refused"));
    host.run(&refused, said).await;
    let other = web(json!({ "type": "http", "path": "/", "status": 200 }));
    host.run(&other, is(Status::Running)).await;
    let lost = host.discoverd.instances("demo-web").pop().unwrap();
    host.discoverd.take("demo-web", lost);
    wait_until_for(LIMIT, "it is registered again", || async {
        host.discoverd.instances("demo-web").pop().ok_or("there is no instance")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sick_job_is_withdrawn_although_a_registration_takes_long() {
    let host = Fixture::start().await;
    let job = web(json!({ "type": "http", "path": "/", "status": 200 }));
    let up = host.run(&job, is(Status::Running)).await;
    let registrations = || host.discoverd.registrations("demo-web");
    let held = host.discoverd.hold().await;
    wait_until_for(LIMIT, "it is being registered again", || async {
        let now = registrations();
        if now.begun > now.done { Ok(()) } else { Err(now) }
    })
    .await;
    docker(&["exec", "-u", "0", &up.container_id, "rm", "/www/index.html"]);
    // Longer than the withdrawal waits for its turn.
    wait_until_for(LIMIT, "that is no longer waited for", || async {
        let now = registrations();
        if now.given_up > 0 { Ok(()) } else { Err(now) }
    })
    .await;
    drop(held);
    wait_until_for(LIMIT, "it is done all the same, and then withdrawn", || async {
        let (now, left) = (registrations(), host.discoverd.instances("demo-web"));
        if now.done == now.begun && left.is_empty() { Ok(()) } else { Err((now, left)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_what_died_meanwhile_rests_until_the_routers_know() {
    let mut host = Fixture::start().await;
    let job = web(json!({ "type": "http", "path": "/", "status": 200 }));
    let up = host.run(&job, is(Status::Running)).await;
    let silent = Instance::new("http", "127.0.0.1:1", meta(&[]));
    host.discoverd.put("strowger-api", silent.clone());
    host.stop_daemon().await;
    docker(&["rm", "-f", &up.container_id]);
    host.start_daemon().await;
    host.wait(job.id, ended).await;
    let address = up.internal_ip.unwrap().to_string();
    let acknowledged = || {
        let saved = std::fs::read(host.dir.path().join("host/addresses.json")).unwrap();
        let saved: Value = serde_json::from_slice(&saved).unwrap();
        saved["freed"][&address]["acknowledged"].as_bool()
    };
    wait_until_for(LIMIT, "it is withdrawn and its address is freed", || async {
        let left = host.discoverd.instances("demo-web");
        if left.is_empty() && acknowledged().is_some() { Ok(()) } else { Err(left) }
    })
    .await;
    assert_eq!(acknowledged(), Some(false), "a router was not asked");
    host.discoverd.take("strowger-api", silent);
    wait_until_for(LIMIT, "no router is left that may not know", || async {
        acknowledged().filter(|done| *done).ok_or("it is not acknowledged")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_can_reach_is_ended_and_told_why() {
    let host = Fixture::start().await;
    let check = json!({ "type": "tcp", "start_timeout": 1_500_000_000 });
    let mut job = web(check);
    job.config.args[2] = "exec httpd -f -p 127.0.0.1:$PORT -h /www".into();
    let crashed = host.run(&job, ended).await;
    let error = crashed.error.unwrap();
    assert_eq!(crashed.status, Status::Crashed);
    assert!(error.contains("listens only on 127.0.0.1"), "{error}");
    assert_eq!(crashed.end_reason, Some(EndReason::CheckNeverPassed));
    assert!(host.discoverd.instances("demo-web").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_image_fails_with_a_sentence() {
    let host = Fixture::start().await;
    let mut job = shell("true");
    job.image = "flynn/nowhere".into();
    let failed = host.run(&job, ended).await;
    assert_eq!((failed.status, failed.end_reason), (Status::Failed, Some(EndReason::NotStarted)));
    assert!(failed.error.unwrap().contains("flynn/nowhere is not on this host"));
    let mut job = shell("true");
    job.config.args = vec!["/bin/missing".into()];
    let failed = host.run(&job, ended).await;
    assert_eq!(failed.status, Status::Failed);
    assert!(failed.error.unwrap().contains("/bin/missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resurrect_job_comes_back_with_its_address_and_its_volumes() {
    let host = Fixture::start().await;
    let volume = json!({ "volumes": [{ "name": "demo-data", "path": "/data" }] });
    let mut job = shell_with("echo life >> /data/lives; cat /data/lives; sleep 1000", volume);
    job.resurrect = true;
    let first = host.run(&job, is(Status::Running)).await;
    wait_until_for(LIMIT, "the first line", || async {
        let log = host.log(job.id, None, false).await;
        if log.is_empty() { Err(log) } else { Ok(()) }
    })
    .await;
    docker(&["kill", "-s", "KILL", &first.container_id]);
    let second =
        host.wait(job.id, |job| job.status == Status::Running && job.host_restarts == 1).await;
    assert_ne!(first.container_id, second.container_id);
    assert_eq!(first.internal_ip, second.internal_ip);
    wait_until_for(LIMIT, "three lines", || async {
        let log = host.log(job.id, None, false).await;
        if log.len() == 3 { Ok(()) } else { Err(log) }
    })
    .await;
    host.client().stop_job(job.id).await.unwrap();
    assert_eq!(host.wait(job.id, ended).await.status, Status::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stops_when_the_daemon_does_and_no_line_is_lost() {
    let mut host = Fixture::start().await;
    let counter = shell("n=0; while :; do n=$((n+1)); echo $n; usleep 3000; done");
    let service = web(json!({ "type": "tcp" }));
    let before = host.run(&counter, is(Status::Running)).await;
    host.run(&service, is(Status::Running)).await;
    let gone = shell("read x; exit 9");
    let stray = Instance::new(
        "tcp",
        "198.18.9.9:1",
        meta(&[("FLYNN_HOST_ID", &host.prefix), ("FLYNN_JOB_ID", "gone")]),
    );
    host.discoverd.put("old", stray);
    host.run(&gone, ended).await;

    host.stop_daemon().await;
    let sleeper = docker(&["inspect", "-f", "{{.State.Running}}", &before.container_id]);
    assert_eq!(sleeper.trim(), "true");
    host.start_daemon().await;

    let after = host.wait(counter.id, is(Status::Running)).await;
    assert_eq!(after.container_id, before.container_id);
    assert_eq!(host.client().job(gone.id).await.unwrap().status, Status::Crashed);
    let lines = host.log(counter.id, None, false).await.len();
    wait_until_for(LIMIT, "the log grows again", || async {
        let now = host.log(counter.id, None, false).await.len();
        if now > lines + 100 { Ok(()) } else { Err(now) }
    })
    .await;
    let numbers = host.log(counter.id, None, false).await;
    let numbers: Vec<usize> = numbers.iter().map(|(_, n)| n.parse().unwrap()).collect();
    let want: Vec<usize> = (1..=numbers.len()).collect();
    let differs = numbers.iter().zip(&want).position(|(a, b)| a != b);
    assert_eq!(differs, None, "at {:?}", differs.map(|n| &numbers[n.saturating_sub(3)..n + 3]));
    wait_until_for(LIMIT, "what no job is is withdrawn, and what one is stays", || async {
        let (old, new) = (host.discoverd.instances("old"), host.discoverd.instances("demo-web"));
        if old.is_empty() && new.len() == 1 { Ok(()) } else { Err((old, new)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_its_daemon_did_not_live_to_see_is_known_to_the_next() {
    let mut host = Fixture::start().await;
    let job = shell("sleep 1000");
    let before = host.run(&job, is(Status::Running)).await;
    host.stop_daemon().await;
    // As the journal was before the engine had started it.
    let path = host.dir.path().join(format!("host/jobs/{}.json", job.id));
    let mut entry: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let of_job = entry["job"].as_object_mut().unwrap();
    of_job.insert("status".into(), json!("starting"));
    of_job.remove("started_at").unwrap();
    of_job.remove("container_id").unwrap();
    std::fs::write(&path, entry.to_string()).unwrap();
    host.start_daemon().await;
    let after = host.wait(job.id, is(Status::Running)).await;
    assert_eq!(after.container_id, before.container_id);
    let late = before.started_at.unwrap().duration_since(after.started_at.unwrap());
    assert!(late.as_secs().abs() < 2, "the engine knows when: {late:?}");
    host.client().signal(job.id, 18).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_died_while_the_daemon_was_away_is_reported_or_resurrected() {
    let mut host = Fixture::start().await;
    let plain = shell("echo begun; sleep 1000");
    let mut critical = shell("sleep 1000");
    critical.resurrect = true;
    let one = host.run(&plain, is(Status::Running)).await;
    let two = host.run(&critical, is(Status::Running)).await;
    host.stop_daemon().await;
    docker(&["kill", &one.container_id, &two.container_id]);
    host.start_daemon().await;
    let died = host.wait(plain.id, ended).await;
    assert_eq!((died.status, died.exit_status), (Status::Crashed, Some(137)));
    let back =
        host.wait(critical.id, |job| job.status == Status::Running && job.host_restarts == 1).await;
    assert_eq!(back.internal_ip, two.internal_ip);
    assert_eq!(host.log(plain.id, None, true).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ignores_its_stop_is_killed() {
    let host = Fixture::start().await;
    let config = json!({ "stop_timeout_seconds": 1 });
    let job = shell_with("trap '' TERM; echo ready; while :; do sleep 1; done", config);
    host.run(&job, is(Status::Running)).await;
    wait_until_for(LIMIT, "the trap is set", || async {
        let log = host.log(job.id, None, false).await;
        if log.is_empty() { Err(log) } else { Ok(()) }
    })
    .await;
    host.client().stop_job(job.id).await.unwrap();
    let done = host.wait(job.id, ended).await;
    assert_eq!((done.status, done.exit_status), (Status::Done, Some(137)));
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_jobs_are_forgotten_but_for_the_last() {
    let host = Fixture::start_with(|config| config.ended_jobs = 2).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let job = shell("true");
        ids.push(host.run(&job, ended).await.job.id);
    }
    wait_until_for(Duration::from_secs(10), "the first is forgotten", || async {
        let known = host.client().jobs().await.unwrap();
        if known.len() == 2 && !known.contains_key(&ids[0]) { Ok(()) } else { Err(known) }
    })
    .await;
}
