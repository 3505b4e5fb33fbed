//! Everything is killed: daemons under load, an app's processes.

use std::time::{Duration, Instant, SystemTime};

use e2e::{app::App, cluster, load::Load, shell::sh, until};

/// Every daemon is back by itself in this time.
const BACK: Duration = Duration::from_secs(10);

/// Layer 0 by container, layer 1 by app, each with a line of shell that succeeds when it works again.
const DAEMONS: [(&str, &str); 8] = [
    ("controller", "flynn apps >/dev/null"),
    ("scheduler", "curl -fs $(addr controller-scheduler)/ping"),
    (
        "gitreceived",
        "timeout 3 ssh-keyscan -p ${GIT_PORT:-2222} 127.0.0.1 2>/dev/null | grep -q ssh-ed25519",
    ),
    ("shelf", "curl -fs $(addr shelf)/ping"),
    ("postgres", "flynn -a postgres ps >/dev/null"),
    (
        "flynn-etcd",
        "ETCDCTL_API=3 etcdctl --endpoints 127.0.0.1:2379 endpoint health >/dev/null 2>&1",
    ),
    (
        "flynn-discoverd",
        "curl -fs http://127.0.0.1:1111/services/controller/instances | grep -q addr",
    ),
    ("flynn-host", "curl -fs http://127.0.0.1:1113/ping"),
];

async fn kill(name: &str) {
    let containers = if name.starts_with("flynn-") {
        vec![name.to_owned()]
    } else {
        cluster::containers_of(name).await
    };
    assert!(!containers.is_empty(), "{name} runs somewhere");
    for container in containers {
        cluster::crash(&container).ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_everything_but_the_router_changes_and_dies() {
    let app = App::node("load");
    app.push().ok();
    app.flynn(&["scale", "web=2"]).ok();
    let load = Load::start(&app.name);
    app.commit("2");
    app.push().ok();
    app.flynn(&["scale", "web=4"]).ok();
    app.flynn(&["scale", "web=2"]).ok();
    let mut times = Vec::new();
    for (name, check) in DAEMONS {
        let since = Instant::now();
        kill(name).await;
        cluster::back(name, check, BACK).await;
        times.push((name, since.elapsed()));
    }
    println!("back after {times:?}");
    app.commit("3");
    app.push().ok();
    assert_eq!(app.get().await.unwrap()["version"], "3", "a push works afterwards");
    load.stop().await.unharmed();
}

/// How often the host has started the scheduler again, if it runs.
async fn scheduler_restarts() -> Result<u32, String> {
    let jobs = cluster::jobs_of("scheduler").await.map_err(|err| format!("{err:?}"))?;
    let running = jobs.iter().find(|job| job.status == api::host::Status::Running);
    running.map(|job| job.host_restarts).ok_or_else(|| format!("{jobs:?}"))
}

#[tokio::test]
async fn the_only_scheduler_may_be_killed_by_its_users() {
    let app = App::node("killed");
    app.push().ok();
    let before = scheduler_restarts().await.expect("the scheduler runs");
    let up = r#"flynn -a scheduler ps --json | jq -r '.[] | select(.state == "up") | .id'"#;
    let id = sh(up).ok();
    sh(&format!("flynn -a scheduler kill {}", id.trim())).ok();
    until("the scheduler to run again", BACK, async || match scheduler_restarts().await {
        Ok(restarts) if restarts > before => Ok(()),
        seen => Err(seen),
    })
    .await;
    app.flynn(&["scale", "web=2"]).ok();
}

/// How long the engine by itself takes to start a container of an image, and until its process listens.
async fn container_start(image: &str) -> (Duration, Duration) {
    let since = Instant::now();
    let id = sh(&format!("docker run -d -e PORT=8080 {image} start web")).ok();
    let started = since.elapsed();
    let pid = sh(&format!("docker inspect -f '{{{{.State.Pid}}}}' {id}")).ok();
    // Its own table, for a first packet that comes before the network is ready costs a second.
    let listens = format!("cat /proc/{}/net/tcp* | grep -Eq ':1F90 0+:0000 0A'", pid.trim());
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while sh(&listens).status != 0 {
        assert!(since.elapsed() < Duration::from_secs(10), "it does not listen");
        tick.tick().await;
    }
    let listening = since.elapsed();
    sh(&format!("docker rm -f {id}")).ok();
    (started, listening)
}

/// Kills a container; when the engine told of its end, since 1970.
fn kill_and_see_it_die(container: &str) -> Duration {
    // Listening from before: the engine remembers only its last events.
    let told = sh(&format!(
        "exec 3< <(timeout 10 docker events --since $(date +%s) --filter event=die \
         --filter container={container} --format '{{{{.TimeNano}}}}' 2>/dev/null)
         docker kill {container} >&2 && head -n 1 <&3 && kill $!"
    ));
    Duration::from_nanos(told.ok().trim().parse().expect("the engine tells of its end"))
}

/// Kills one of an app's processes that did not crash before, or it would be started again later; how long until one that
/// was not there before answers, from when the engine told of the end. No request fails meanwhile.
async fn replaced(app: &App) -> Duration {
    let jobs = cluster::jobs_of(&app.name).await.expect("flynn-host answers");
    let there: Vec<String> = jobs.iter().map(|job| job.job.id.to_string()).collect();
    let is_web = |job: &&api::host::ActiveJob| {
        job.job.metadata[api::host::META_TYPE] == "web" && job.job.restarts == 0
    };
    let web = jobs.iter().find(is_web).expect("a web process runs");
    let died = kill_and_see_it_die(&web.container_id);
    let since = Instant::now();
    // Asked without a rest it would get no core to start on.
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    loop {
        tick.tick().await;
        // Two, for only every sixth or so is the new one's to answer.
        let (one, other) = tokio::join!(app.get(), app.get());
        let is_new = |answer: Result<serde_json::Value, _>| {
            let answer = answer.expect("the others take the requests meanwhile");
            !there.iter().any(|old| answer["job"] == **old)
        };
        // Both are looked at.
        if is_new(one) | is_new(other) {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now = now.expect("it is after 1970");
            return now.saturating_sub(died);
        }
        assert!(since.elapsed() < Duration::from_secs(10), "no replacement answers");
    }
}

/// Processes killed one after the other.
const ROUNDS: usize = 5;
/// One more: none is killed twice, and somebody always serves.
const PROCESSES: usize = ROUNDS + 1;

#[tokio::test]
async fn a_killed_app_process_is_replaced_at_once() {
    let app = App::node("dies");
    app.push().ok();
    app.flynn(&["scale", &format!("web={PROCESSES}")]).ok();
    let web = cluster::containers_of(&app.name).await.remove(0);
    let image = sh(&format!("docker inspect -f '{{{{.Image}}}}' {web}")).ok();
    let image = image.trim();
    // In pairs, for the machine is not equally busy all the time.
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.push((container_start(image).await, replaced(&app).await));
        until("all to serve again", Duration::from_secs(20), async || {
            let web_up = |job: &&serde_json::Value| job["type"] == "web" && job["state"] == "up";
            let up = app.ps().iter().filter(web_up).count();
            if up == PROCESSES { Ok(()) } else { Err(up) }
        })
        .await;
    }
    println!("a container's start, until it listens, and a replacement's answer: {times:?}");
    let mut longer: Vec<Duration> =
        times.iter().map(|((_, listens), replaced)| replaced.saturating_sub(*listens)).collect();
    let mut alone: Vec<Duration> = times.iter().map(|((_, listens), _)| *listens).collect();
    longer.sort();
    alone.sort();
    // Where a container alone takes longer than that, everything does.
    let limit = alone[ROUNDS / 2].max(Duration::from_millis(500));
    assert!(longer[ROUNDS / 2] <= limit, "{times:?}");
}

#[tokio::test]
async fn a_crash_loop_backs_off_and_shows() {
    let app = App::node("loop");
    app.push().ok();
    // The worker starts to crash at every start only once it is scaled up.
    app.write("Procfile", "web: node server.js\nworker: sh -c 'echo worker hurts; exit 3'\n");
    app.commit("2");
    app.push().ok();
    app.flynn(&["scale", "--no-wait", "worker=1"]).ok();
    let ps = until("the crash loop to show in ps", Duration::from_secs(30), async || {
        let ps = app.flynn(&["ps"]).ok();
        let shown = ps.lines().any(|line| {
            line.contains("worker") && (line.contains("crash") || line.contains("pending"))
        });
        if shown && ps.contains("worker") && ps.contains("status 3") { Ok(ps) } else { Err(ps) }
    })
    .await;
    println!("{ps}");
    assert_eq!(app.get().await.unwrap()["version"], "2", "the web processes do not mind");
}
