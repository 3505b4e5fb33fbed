//! `flynn deploy`: a repository is deployed by its URL, from a git server that is an app of the cluster.

use std::fs;

use e2e::{
    app::App,
    shell::{Said, run},
};

/// A token that is only ever in a file.
const TOKEN: &str = "s3cret-token-of-the-story";

/// Gives out the repositories of its folder; what is below `/private` to who knows the token.
const GIT_SERVER: &str = r#"
const http = require("http"), fs = require("fs"), path = require("path");
http.createServer((req, res) => {
  const at = path.normalize(decodeURIComponent(req.url.split("?")[0]));
  const given = Buffer.from((req.headers.authorization || "").replace(/^Basic /, ""), "base64").toString();
  if (at.startsWith("/private") && given.split(":").slice(1).join(":") !== fs.readFileSync("token", "utf8").trim()) {
    res.writeHead(401, {"www-authenticate": "Basic realm=git"});
    return res.end();
  }
  const file = path.join(__dirname, "repositories", at.replace(/^\/private/, ""));
  fs.readFile(file, (err, bytes) => { res.writeHead(err ? 404 : 200); res.end(bytes); });
}).listen(process.env.PORT, "0.0.0.0");
"#;

/// A repository with the tags `one` and `two`, and an app that serves it.
fn git_server(source: &App) -> App {
    run(source.path(), &["git", "tag", "one"]).ok();
    source.commit("2");
    run(source.path(), &["git", "tag", "two"]).ok();
    let server = App::node("repos");
    let repository = server.path().join("repositories/tiny");
    let (from, to) = (source.path().display().to_string(), repository.display().to_string());
    run(server.path(), &["git", "clone", "-q", "--bare", &from, &to]).ok();
    run(&repository, &["git", "update-server-info"]).ok();
    server.write("server.js", GIT_SERVER);
    server.write("token", TOKEN);
    server.write("Procfile", "web: node server.js\n");
    server.commit("server");
    server.push().ok();
    server
}

/// Everything people are shown of an app.
fn shown(app: &App) -> String {
    let said = |words: &[&str]| {
        let Said { out, err, .. } = app.flynn(words);
        out + &err
    };
    [
        &["ps", "--all", "--json"][..],
        &["log", "-n", "10000"],
        &["events", "--json"],
        &["env"],
        &["releases", "--json"],
        &["release-show", "--json"],
        &["deployments", "--json"],
        &["meta", "--json"],
    ]
    .map(said)
    .concat()
}

#[tokio::test]
async fn a_repository_is_deployed_by_its_url_and_its_token_is_seen_nowhere() {
    let source = App::node("source");
    let server = git_server(&source);
    let app = App::create("cloned");
    let url = |path: &str| format!("http://{}-web.discoverd:8080/{path}", server.name);

    let deployed = app.flynn(&["deploy", &url("tiny"), "--ref", "one"]);
    assert!(format!("{deployed:?}").contains("----->"), "the build is shown: {deployed:?}");
    deployed.ok();
    assert_eq!(app.serves().await["version"], "1");

    // Without the token it is not to be had, and the release before serves on.
    let refused = app.flynn(&["deploy", &url("private/tiny")]).refused();
    assert!(refused.contains("may it be read?"), "{refused}");
    assert_eq!(app.get().await.unwrap()["version"], "1");

    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("token");
    fs::write(&file, TOKEN).unwrap();
    let words = ["deploy", &url("private/tiny"), "--token-file", file.to_str().unwrap()];
    let deployed = app.flynn(&words);
    assert!(!format!("{deployed:?}").contains(TOKEN), "{deployed:?}");
    deployed.ok();
    assert_eq!(app.get().await.unwrap()["version"], "2");
    let shown = shown(&app);
    assert!(shown.contains("--stdin") && !shown.contains(TOKEN), "{shown}");

    // Who has a clone pushes on.
    source.commit("3");
    let remote = run(app.path(), &["git", "remote", "get-url", "flynn"]).ok();
    run(source.path(), &["git", "push", "-q", remote.trim(), "master"]).ok();
    assert_eq!(app.get().await.unwrap()["version"], "3");
}

#[tokio::test]
async fn a_repository_that_does_not_build_ends_with_a_status_and_a_reason() {
    let source = App::node("unbuilt");
    source.write("package.json", "{ \"name\": ");
    source.commit("bad");
    let server = git_server(&source);
    let app = App::create("unbuilt-clone");
    let url = format!("http://{}-web.discoverd:8080/tiny", server.name);
    let told = app.flynn(&["deploy", &url]).refused();
    assert!(told.contains("package.json"), "{told}");
    let told = app.flynn(&["deploy", &url, "--ref", "no-such-tag"]).refused();
    assert!(told.contains("no-such-tag"), "{told}");
}
