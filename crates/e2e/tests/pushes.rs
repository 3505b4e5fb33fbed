//! Languages, and every push that must be refused: with a sentence, and with the old release still serving.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use e2e::{
    app::App,
    cluster,
    load::Load,
    shell::{run, sh},
};

async fn text(app: &App) -> (u16, String) {
    let answer = cluster::http(false).get(cluster::url(&app.name)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn example_serves(example: &str) {
    let app = App::create(example);
    app.copy_example(example);
    app.commit("1");
    app.push().ok();
    let (status, body) = text(&app).await;
    assert_eq!(status, 200, "{example}: {body}");
}

#[tokio::test]
async fn a_flask_app_serves() {
    example_serves("flask-demo").await;
}

#[tokio::test]
async fn a_static_site_serves() {
    example_serves("static-demo").await;
}

#[tokio::test]
async fn an_app_of_a_procfile_alone_serves() {
    example_serves("procfile-demo").await;
}

/// Pushes a change that must be refused and says what the pusher was told.
async fn refused(app: &App, change: impl FnOnce(&App)) -> String {
    change(app);
    app.commit("bad");
    let told = app.push().refused();
    assert_eq!(app.get().await.unwrap()["version"], "1", "the old release serves on: {told}");
    run(app.path(), &["git", "reset", "-q", "--hard", "HEAD~1"]).ok();
    told
}

#[tokio::test]
async fn a_push_that_cannot_work_is_refused_with_the_reason() {
    let app = App::node("bad");
    app.push().ok();
    app.serves().await;

    let told = refused(&app, |app| app.write("package.json", "{ \"name\": ")).await;
    assert!(told.contains("package.json"), "{told}");

    let told = refused(&app, |app| {
        run(app.path(), &["git", "rm", "-q", "package.json", "Procfile"]).ok();
    })
    .await;
    assert!(told.contains("buildpack"), "{told}");

    let told =
        refused(&app, |app| app.write("server.js", "console.log('it hurts'); process.exit(3);"))
            .await;
    assert!(told.contains("it hurts"), "the crash's own words are shown: {told}");

    // The same commits can be mended and pushed.
    app.commit("2");
    app.push().ok();
    assert_eq!(app.get().await.unwrap()["version"], "2");
}

#[tokio::test]
async fn a_process_that_nobody_could_reach_is_refused() {
    let app = App::node("deaf");
    app.push().ok();
    app.serves().await;
    // Long enough for this app to start. What is said of a process type stays so with the pushes that follow.
    app.flynn(&["check-set", "web", "--start-timeout", "10s"]).ok();
    let told = refused(&app, |app| {
        app.write("server.js", "require('http').createServer((q, s) => s.end('x')).listen(process.env.PORT, '127.0.0.1')");
    })
    .await;
    assert!(told.contains("127.0.0.1") && told.contains("0.0.0.0"), "{told}");
    assert!(told.contains("within 10s"), "it was waited for as long as was set: {told}");
    let told = refused(&app, |app| app.write("server.js", "setInterval(() => {}, 1000)")).await;
    assert!(told.contains("PORT") || told.contains("8080"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_crashes_at_start_is_refused_and_no_request_fails() {
    let app = App::node("works");
    app.push().ok();
    app.flynn(&["scale", "worker=1"]).ok();
    let load = Load::start(&app.name);
    let told = refused(&app, |app| {
        app.write("Procfile", "web: node server.js\nworker: sh -c 'echo no queue; exit 1'\n");
    })
    .await;
    assert!(told.contains("worker") && told.contains("no queue"), "{told}");
    let worker_up = |job: &&serde_json::Value| job["type"] == "worker" && job["state"] == "up";
    assert_eq!(app.ps().iter().filter(worker_up).count(), 1, "the old worker works on");
    load.stop().await.unharmed();
}

#[tokio::test]
async fn wrong_places_to_push_are_refused_with_what_to_do() {
    let app = App::node("place");
    let kept = run(app.path(), &["git", "push", "flynn", "master:feature"]);
    assert_eq!(kept.status, 0, "a branch that does not deploy is kept: {kept:?}");
    assert!(kept.err.contains("not deployed: only"), "{kept:?}");
    assert!(app.get().await.is_err(), "nothing was deployed");

    let there = run(app.path(), &["git", "remote", "get-url", "flynn"]).ok();
    let nowhere = there.trim().replace(&app.name, "no-such-app");
    let told = run(app.path(), &["git", "push", &nowhere, "master"]).refused();
    assert!(told.contains("no-such-app") && told.contains("flynn create"), "{told}");

    let key = app.path().join("stranger");
    let key = key.to_str().unwrap();
    run(app.path(), &["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]).ok();
    let line = format!(
        "cd {} && GIT_SSH_COMMAND='ssh -i {key} -o IdentitiesOnly=yes -o IdentityAgent=none' git push flynn master",
        app.path().display()
    );
    let told = sh(&line).refused();
    assert!(told.contains("key-add"), "{told}");
}
