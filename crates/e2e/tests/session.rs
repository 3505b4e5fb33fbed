//! The session of `examples/README.md`, as typed.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use e2e::{app::App, cluster, shell::sh, until};

fn column(table: &str, row: impl Fn(&str) -> bool, number: usize) -> String {
    let row =
        table.lines().find(|line| row(line)).unwrap_or_else(|| panic!("no such row in {table}"));
    row.split_whitespace().nth(number).expect("the row has the column").to_owned()
}

#[tokio::test]
async fn a_first_day_with_flynn_works_as_typed() {
    let app = App::node("session");
    let pushed = app.push();
    assert!(pushed.err.contains("----->"), "the build is shown live: {}", pushed.err);
    pushed.ok();
    assert_eq!(app.serves().await["version"], "1");

    let routes = app.flynn(&["routes"]).ok();
    let own = format!("http:{}.{}", app.name, cluster::domain());
    assert!(routes.starts_with("ROUTE") && routes.contains(&own), "{routes}");
    assert_eq!(column(&routes, |line| line.starts_with(&own), 1), format!("{}-web", app.name));

    let other = format!("other-{}", app.name);
    let id = app.flynn(&["route-add-http", &format!("{other}.{}", cluster::domain())]).ok();
    let answer = cluster::http(false).get(cluster::url(&other)).send().await.unwrap();
    assert_eq!(answer.status(), 200, "the route serves as soon as the command returns");

    app.flynn(&["scale", "web=8"]).ok();
    let client = cluster::http(false);
    let mut processes = BTreeSet::new();
    for _ in 0..200 {
        let answer = client.get(cluster::url(&app.name)).send().await.unwrap();
        let answer: serde_json::Value = answer.json().await.unwrap();
        processes.insert(answer["job"].to_string());
    }
    assert_eq!(processes.len(), 8, "200 requests reach all processes: {processes:?}");
    let ps = app.flynn(&["ps"]).ok();
    assert_eq!(ps.lines().filter(|line| line.contains(" web ")).count(), 8, "{ps}");

    let job = column(&ps, |line| line.contains(" web "), 0);
    assert!(app.flynn(&["log", &job]).ok().contains("version 1 listens"));
    app.flynn(&["scale", "web=2"]).ok();
    let up = |job: &&serde_json::Value| job["type"] == "web" && job["state"] == "up";
    assert_eq!(app.ps().iter().filter(up).count(), 2);

    app.flynn(&["env-set", "A=1"]).ok();
    assert_eq!(
        app.get().await.unwrap()["a"],
        "1",
        "env-set returns when the new environment serves"
    );
    assert_eq!(app.flynn(&["env-get", "A"]).ok().trim(), "1");
    app.flynn(&["rollback"]).ok();
    assert!(app.get().await.unwrap()["a"].is_null(), "rollback goes back");

    let removed = app.flynn(&["route-remove", id.trim()]).ok();
    assert_eq!(removed.trim(), format!("Route {} removed.", id.trim()));
    let answer = cluster::http(false).get(cluster::url(&other)).send().await.unwrap();
    assert_eq!(answer.status(), 404, "a removed route is gone as soon as the command returns");
}

#[tokio::test]
async fn a_second_push_replaces_the_first_and_an_equal_one_changes_nothing() {
    let app = App::node("again");
    app.push().ok();
    assert_eq!(app.serves().await["version"], "1");
    app.commit("2");
    app.push().ok();
    assert_eq!(
        app.get().await.unwrap()["version"],
        "2",
        "a push returns when the new version serves"
    );
    let same = app.push();
    assert!(same.err.contains("up-to-date"), "{}", same.err);
    let releases = app.flynn(&["releases"]).ok();
    assert!(releases.lines().count() >= 3, "{releases}");
}

#[tokio::test]
async fn run_gives_a_shell_pipes_signals_and_exit_status() {
    let app = App::node("run");
    app.push().ok();
    assert_eq!(app.flynn(&["run", "--", "sh", "-c", "exit 7"]).status, 7);
    let listing = app.flynn(&["run", "ls", "/app"]).ok();
    assert!(listing.contains("server.js") && listing.contains("Procfile"), "{listing}");
    let piped =
        e2e::shell::run_with(app.path(), &["flynn", "run", "cat"], b"through and back\n").ok();
    assert_eq!(piped, "through and back\n");
    let said = app.flynn(&["run", "--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((said.out.as_str(), said.err.contains("err")), ("out\n", true));
    // The same streams by their names, which nobody but root may open if they are still root's.
    let named = "[ $(id -u) != 0 ] && echo out > /dev/stdout && echo err > /dev/stderr";
    let said = app.flynn(&["run", "--", "sh", "-c", named]);
    assert_eq!((said.status, said.out.as_str(), said.err.contains("err")), (0, "out\n", true));

    // On a terminal: a shell with the terminal's size, whose exit status comes back.
    let script = "stty size; cd /app; ls; exit 5\\n";
    let line = format!(
        "cd {} && printf '{script}' | script -qec 'stty rows 33 cols 101; flynn run bash' /dev/null; echo status=$?",
        app.path().display()
    );
    let screen = sh(&line).ok();
    assert!(screen.contains("33 101"), "{screen}");
    assert!(screen.contains("server.js"), "{screen}");
    assert!(screen.contains("status=5"), "{screen}");
}

#[tokio::test]
async fn a_log_is_followed_live() {
    let app = App::node("log");
    app.push().ok();
    let mut child =
        app.command("flynn").args(["log", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
    let out = child.stdout.take().unwrap();
    let (lines, mut heard) = tokio::sync::mpsc::channel(1000);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    app.commit("2");
    app.push().ok();
    let end = Instant::now() + Duration::from_secs(20);
    let mut seen = Vec::new();
    while !seen.iter().any(|line: &String| line.contains("version 2 listens")) {
        let left = end.saturating_duration_since(Instant::now());
        let line = tokio::time::timeout(left, heard.recv()).await;
        let line = line.unwrap_or_else(|_| panic!("the new process's line did not come: {seen:?}"));
        seen.push(line.expect("the log goes on"));
    }
    sh(&format!("kill {}", child.id())).ok();
    let _ = child.wait();
    drop(heard);
    let _ = reader.join();
}

#[tokio::test]
async fn the_parts_of_flynn_are_apps_and_script_up_changes_nothing() {
    let apps = sh("flynn apps").ok();
    for part in ["controller", "scheduler", "postgres", "strowger", "shelf", "gitreceived"] {
        assert!(
            apps.lines().any(|line| line.split_whitespace().nth(1) == Some(part)),
            "{part}: {apps}"
        );
        let ps = sh(&format!("flynn -a {part} ps")).ok();
        assert!(ps.contains(" up "), "{part}: {ps}");
    }
    let before = sh("docker ps --no-trunc -q | sort").ok();
    let started = Instant::now();
    let up = format!("{}/../../script/up", env!("CARGO_MANIFEST_DIR"));
    sh(&up).ok();
    assert!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());
    assert_eq!(before, sh("docker ps --no-trunc -q | sort").ok());
}

#[tokio::test]
async fn a_deleted_app_is_gone_and_its_name_can_be_used_again() {
    let app = App::node("gone");
    app.push().ok();
    app.serves().await;
    app.flynn(&["delete", "-y"]).ok();
    let answer = cluster::http(false).get(cluster::url(&app.name)).send().await.unwrap();
    assert_eq!(answer.status(), 404);
    until("its jobs to end", Duration::from_secs(20), async || {
        let jobs = cluster::jobs_of(&app.name).await.map_err(|err| format!("{err:?}"))?;
        if jobs.is_empty() { Ok(()) } else { Err(format!("{} jobs", jobs.len())) }
    })
    .await;
    app.flynn(&["create", "-y", &app.name]).ok();
    app.push().ok();
    app.serves().await;
}
