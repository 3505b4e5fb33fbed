//! The power fails everywhere at once, while pushes, uploads and database writes run.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use e2e::{app::App, cluster, shell::sh, until};

/// SIGKILL at one instant to the engine, its shims and every process in a container.
const POWER_FAILURE: &str = r#"
pids=$(pgrep -x dockerd; pgrep -x containerd; pgrep -x containerd-shim
       find /sys/fs/cgroup -path '*docker*' -name cgroup.procs -exec cat {} + 2>/dev/null)
kill -9 $(printf '%s\n' $pids | sort -un) 2>/dev/null
while docker info >/dev/null 2>&1; do :; done
"#;

/// What a machine's init does when the power is back.
const POWER_RETURNS: &str =
    concat!(". ", env!("CARGO_MANIFEST_DIR"), "/../../script/lib.sh && start_engine");

/// All is back in this time.
const RESTORED: Duration = Duration::from_secs(60);

/// A change of the environment: a release and a deployment.
const WRITE: &str = "flynn env-set N=$i";
/// A blob that says which it is.
const UPLOAD: &str = "curl -fs -X PUT -u :$KEY -d $i http://$(addr shelf)/storm/$APP/$i";
/// The same blob.
const DOWNLOAD: &str = "curl -fs -u :$KEY http://$(addr shelf)/storm/$APP/$i";
/// A new version.
const PUSH: &str = "echo $i >version.txt && git commit -qam $i && git push flynn master";

/// A command repeated with `$i` counting up until it is stopped.
struct Storm {
    child: Child,
    file: PathBuf,
}

impl Storm {
    fn start(app: &App, command: &str) -> Self {
        let file = std::env::temp_dir().join(format!("storm-{}-{}", app.name, command.len()));
        std::fs::write(&file, "").unwrap();
        let line = format!(
            "{}; for i in $(seq 2 500); do {{ {command}; }} && echo $i >>{}; done",
            cluster::ADDR,
            file.display()
        );
        let child = app
            .command("bash")
            .args(["-c", &line])
            .env("APP", &app.name)
            .env("KEY", cluster::service_key("shelf"))
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, file }
    }

    /// The numbers whose command succeeded.
    fn acknowledged(&self) -> Vec<u32> {
        let text = std::fs::read_to_string(&self.file).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn stop(mut self) -> Vec<u32> {
        // With the command under way, which would go on when the power is back.
        sh(&format!("kill -9 -{}", self.child.id()));
        let _ = self.child.wait();
        let acknowledged = self.acknowledged();
        let _ = std::fs::remove_file(&self.file);
        acknowledged
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_failure_everything_serves_again_with_every_acknowledged_write() {
    let (app, pushed) = (App::node("power"), App::node("pushed"));
    app.push().ok();
    pushed.push().ok();
    app.flynn(&["env-set", "A=kept"]).ok();
    let storms =
        [Storm::start(&app, WRITE), Storm::start(&app, UPLOAD), Storm::start(&pushed, PUSH)];
    until("each kind of write to be acknowledged", Duration::from_secs(90), async || {
        let seen = storms.each_ref().map(|storm| storm.acknowledged().len());
        if seen.iter().all(|count| *count > 1) { Ok(()) } else { Err(seen) }
    })
    .await;
    sh(POWER_FAILURE).ok();
    let [written, uploaded, versions] = storms.map(Storm::stop);

    let since = Instant::now();
    sh(POWER_RETURNS).ok();
    until("the app to serve again", RESTORED, async || app.get().await).await;
    cluster::back("the controller", "flynn apps", RESTORED.saturating_sub(since.elapsed())).await;
    cluster::back("shelf", "curl -fs $(addr shelf)/ping", RESTORED.saturating_sub(since.elapsed()))
        .await;
    println!(
        "all serves {:?} after the engine was started; acknowledged before: {} writes, {} uploads, {} pushes",
        since.elapsed(),
        written.len(),
        uploaded.len(),
        versions.len()
    );

    assert_eq!(app.flynn(&["env-get", "A"]).ok().trim(), "kept");
    let kept: u32 = app.flynn(&["env-get", "N"]).ok().trim().parse().unwrap();
    assert!(
        written.iter().all(|write| *write <= kept),
        "{written:?} were acknowledged, {kept} is there"
    );
    for upload in uploaded {
        let get = DOWNLOAD.replace("$i", &upload.to_string()).replace("$APP", &app.name);
        let whole = cluster::works(&get.replace("$KEY", &cluster::service_key("shelf"))).ok();
        assert_eq!(whole, upload.to_string(), "an acknowledged upload is whole");
    }
    let version: u32 = pushed.serves().await["version"].as_str().unwrap().parse().unwrap();
    assert!(
        versions.iter().all(|push| *push <= version),
        "{versions:?} were pushed, {version} serves"
    );
    app.commit("after");
    app.push().ok();
    assert_eq!(app.get().await.unwrap()["version"], "after");
}
