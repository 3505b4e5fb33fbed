//! Everything is killed: daemons under load, an app's process, and the whole machine.

use std::time::{Duration, Instant};

use e2e::{
    app::App,
    cluster,
    load::Load,
    shell::{Said, sh},
    until,
};

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

fn works(check: &str) -> Said {
    sh(&format!(
        "addr() {{ curl -fs http://127.0.0.1:1111/services/$1/instances | jq -re '.[0].addr'; }}; {check}"
    ))
}

async fn back(name: &str, check: &str, bound: Duration) {
    until(&format!("{name} to be back"), bound, async || {
        let said = works(check);
        if said.status == 0 { Ok(()) } else { Err(said) }
    })
    .await;
}

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
        back(name, check, BACK).await;
        times.push((name, since.elapsed()));
    }
    println!("back after {times:?}");
    app.commit("3");
    app.push().ok();
    assert_eq!(app.get().await.unwrap()["version"], "3", "a push works afterwards");
    load.stop().await.unharmed();
}

#[tokio::test]
async fn a_killed_app_process_is_replaced_at_once() {
    let app = App::node("dies");
    app.push().ok();
    app.flynn(&["scale", "web=2"]).ok();
    let jobs = cluster::jobs_of(&app.name).await.unwrap();
    let web = jobs.iter().find(|job| job.job.metadata["flynn-controller.type"] == "web").unwrap();
    let (dead, since) = (web.job.id, Instant::now());
    sh(&format!("docker kill {}", web.container_id)).ok();
    until("a replacement", Duration::from_secs(5), async || {
        // The other one takes the requests meanwhile.
        let answer = app.get().await.map_err(|err| format!("a request failed: {err}"));
        let answer = answer.unwrap_or_else(|err| panic!("{err}"));
        assert_ne!(answer["job"], dead.to_string());
        let up = app.ps().iter().filter(|job| job["type"] == "web" && job["state"] == "up").count();
        let gone = !cluster::jobs_of(&app.name)
            .await
            .is_ok_and(|jobs| jobs.iter().any(|job| job.job.id == dead));
        if up == 2 && gone { Ok(()) } else { Err(up) }
    })
    .await;
    println!("replaced after {:?}", since.elapsed());
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

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_failure_everything_serves_again_with_every_acknowledged_write() {
    let app = App::node("power");
    app.push().ok();
    app.flynn(&["env-set", "A=kept"]).ok();
    let storm =
        "for i in $(seq 200); do flynn -a $APP env-set N=$i >/dev/null 2>&1 && echo $i; done";
    let storm = std::process::Command::new("bash")
        .args(["-c", &storm.replace("$APP", &app.name)])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("some writes to be acknowledged", Duration::from_secs(60), async || {
        let value = app.flynn(&["env-get", "N"]);
        if value.status == 0 { Ok(()) } else { Err(value) }
    })
    .await;
    sh(POWER_FAILURE).ok();
    sh(&format!("kill {}", storm.id()));
    let acknowledged = storm.wait_with_output().unwrap().stdout;
    let acknowledged = String::from_utf8_lossy(&acknowledged).lines().last().map(str::to_owned);

    let since = Instant::now();
    sh("setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null &").ok();
    until("the app to serve again", Duration::from_secs(60), async || app.get().await).await;
    back(
        "the controller",
        "flynn apps >/dev/null",
        Duration::from_secs(60).saturating_sub(since.elapsed()),
    )
    .await;
    println!(
        "all serves {:?} after the engine was started; last acknowledged write {acknowledged:?}",
        since.elapsed()
    );
    assert_eq!(app.flynn(&["env-get", "A"]).ok().trim(), "kept");
    let kept: u32 = app.flynn(&["env-get", "N"]).ok().trim().parse().unwrap();
    let acknowledged: u32 = acknowledged.map_or(0, |line| line.parse().unwrap());
    assert!(kept >= acknowledged, "write {acknowledged} was acknowledged, {kept} is there");
    app.commit("after");
    app.push().ok();
    assert_eq!(app.get().await.unwrap()["version"], "after");
}

/// SIGKILL at one instant to the engine, its shims and every process in a container.
const POWER_FAILURE: &str = r#"
pids=$(pgrep -x dockerd; pgrep -x containerd; pgrep -x containerd-shim
       find /sys/fs/cgroup -path '*docker*' -name cgroup.procs -exec cat {} + 2>/dev/null)
kill -9 $(printf '%s\n' $pids | sort -un) 2>/dev/null
while pgrep -x dockerd >/dev/null; do :; done
rm -f /var/run/docker.pid
"#;
