//! taffy with a real git server and a receiver that is a shell script.
#![expect(clippy::unwrap_used, reason = "helpers of tests too")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Stdio};

use taffy::{Args, run};
use testkit::{free_port, wait_until};
use tokio::process::{Child, Command};

const RECEIVER: &str = r#"#!/bin/sh
dir=$(dirname "$0")
echo "$1 $2" >$dir/args
env >$dir/env
tar -x -C $dir/tree
cp "$FLYNN_PACK_FILE" $dir/pack
test "$1" != refused
"#;

struct World {
    dir: tempfile::TempDir,
    url: String,
    _server: Child,
}

async fn git(dir: &Path, args: &[&str]) -> String {
    let mut git = Command::new("git");
    git.current_dir(dir).args(args);
    for role in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{role}_NAME"), "me").env(format!("GIT_{role}_EMAIL"), "me@home");
    }
    let output = git.output().await.unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (repo, receiver) = (dir.path().join("repo"), dir.path().join("receiver"));
        fs::create_dir_all(&repo).unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        fs::write(&receiver, RECEIVER).unwrap();
        fs::set_permissions(&receiver, fs::Permissions::from_mode(0o755)).unwrap();
        git(&repo, &["init", "-q", "-b", "trunk"]).await;
        for n in ["one", "two"] {
            fs::write(repo.join("file"), n).unwrap();
            git(&repo, &["add", "."]).await;
            git(&repo, &["commit", "-q", "-m", n]).await;
        }
        let port = free_port();
        // Not `git daemon`, which would be its parent, and leave it behind when it is killed.
        let programs = git(dir.path(), &["--exec-path"]).await;
        let server = Command::new(Path::new(&programs).join("git-daemon"))
            .args(["--export-all", "--reuseaddr", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", dir.path().display()))
            .env("HOME", dir.path())
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let url = format!("git://127.0.0.1:{port}/repo");
        wait_until("the git server listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map(drop)
        })
        .await;
        Self { dir, url, _server: server }
    }

    fn args(&self, app: &str, branch: &str, rev: &str) -> Args {
        Args {
            app: app.into(),
            repo: Some(self.url.clone()),
            branch: Some(branch.into()),
            rev: Some(rev.into()),
            receiver: self.dir.path().join("receiver").display().to_string(),
            ..Args::default()
        }
    }
}

#[tokio::test]
async fn a_commit_of_a_branch_is_handed_to_the_receiver_with_its_history() {
    let world = World::new().await;
    let repo = world.dir.path().join("repo");
    let first = git(&repo, &["rev-parse", "HEAD~1"]).await;
    assert!(run(world.args("my-app", "trunk", &first[..10])).await.unwrap());
    let read = |name: &str| fs::read_to_string(world.dir.path().join(name)).unwrap();
    assert_eq!(read("args").trim(), format!("my-app {first}"));
    assert_eq!(read("tree/file"), "one");
    let elsewhere = world.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    git(&elsewhere, &["init", "-q", "--bare"]).await;
    let index = format!("git index-pack --stdin < {}", world.dir.path().join("pack").display());
    let indexed = Command::new("sh").args(["-c", &index]).current_dir(&elsewhere).output().await;
    assert!(indexed.unwrap().status.success());
    assert_eq!(git(&elsewhere, &["rev-list", "--count", &first]).await, "1");
    assert!(run(world.args("my-app", "trunk", "trunk")).await.unwrap());
    assert_eq!(read("tree/file"), "two");
    assert!(!run(world.args("refused", "trunk", "trunk")).await.unwrap());
}

#[tokio::test]
async fn a_branch_a_tag_and_the_default_branch_go_by_every_name() {
    let world = World::new().await;
    let repo = world.dir.path().join("repo");
    git(&repo, &["tag", "-a", "v1", "-m", "v1", "HEAD~1"]).await;
    git(&repo, &["branch", "dev", "HEAD~1"]).await;
    let (two, one) =
        (git(&repo, &["rev-parse", "HEAD"]).await, git(&repo, &["rev-parse", "dev"]).await);
    for (name, commit) in [
        ("HEAD", &two),
        ("trunk", &two),
        ("refs/heads/trunk", &two),
        ("refs/heads/dev", &one),
        ("v1", &one),
        ("refs/tags/v1", &one),
        (&one, &one),
    ] {
        assert!(run(Args { rev: None, ..world.args("my-app", name, "") }).await.unwrap());
        let args = fs::read_to_string(world.dir.path().join("args")).unwrap();
        assert_eq!(args.trim(), format!("my-app {commit}"), "{name}");
    }
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_named_soon() {
    let world = World::new().await;
    // Its queue is full and nobody takes anybody out: what comes more is dropped.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let _listener = socket.listen(1).unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(
        std::time::Duration::from_millis(500),
        tokio::net::TcpStream::connect(address),
    )
    .await
    {
        waiting.push(stream);
    }
    let url = format!("https://me:s3cret@{address}/x.git");
    let args = Args { repo: Some(url), ..world.args("a", "trunk", "trunk") };
    let err = format!("{:#}", run(args).await.unwrap_err());
    assert!(err.contains("does not answer on port") && !err.contains("s3cret"), "{err}");
}

#[tokio::test]
async fn what_cannot_be_cloned_is_said_and_nothing_is_run() {
    let world = World::new().await;
    for (args, why) in [
        (world.args("a", "no-such-branch", "x"), "cloning the branch no-such-branch"),
        (world.args("a", "trunk", "0123456789"), "has no commit 0123456789"),
        (world.args("a", "0123456789", "0123456789"), "has no commit 0123456789"),
        (world.args("a", "--upload-pack=id", "x"), "is not the name of a branch"),
        (
            Args { repo: Some("ext::sh -c id".into()), ..world.args("a", "trunk", "trunk") },
            "not the URL",
        ),
        (
            Args { receiver: "/nothing".into(), ..world.args("a", "trunk", "trunk") },
            "cannot be run",
        ),
    ] {
        let err = format!("{:#}", run(args).await.unwrap_err());
        assert!(err.contains(why) && !err.trim_end().ends_with(':'), "{err}");
    }
    git(world.dir.path(), &["init", "-q", "--bare", "empty"]).await;
    let url = world.url.replace("/repo", "/empty");
    for branch in [None, Some("HEAD".to_owned())] {
        let args = Args { branch, rev: None, repo: Some(url.clone()), ..world.args("a", "", "") };
        let err = format!("{:#}", run(args).await.unwrap_err());
        assert!(err.ends_with("/empty is empty: push to it first"), "{err}");
    }
    assert!(!world.dir.path().join("args").exists());
}

#[tokio::test]
async fn url_ref_and_token_come_by_stdin_and_are_shown_nowhere() {
    use tokio::io::AsyncWriteExt;
    let world = World::new().await;
    let run = async |said: String| {
        let mut taffy = Command::new(env!("CARGO_BIN_EXE_taffy"));
        taffy.args(["--stdin", "my-app"]).env("CONTROLLER_KEY", "cluster-key");
        taffy.env("TAFFY_RECEIVER", world.dir.path().join("receiver"));
        taffy.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = taffy.spawn().unwrap();
        child.stdin.take().unwrap().write_all(said.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (ok, said) = run(format!(r#"{{"url": "{}", "token": "s3cret-token"}}"#, world.url)).await;
    assert!(ok && said.contains(&format!("-----> Cloning {}...", world.url)), "{said}");
    let env = fs::read_to_string(world.dir.path().join("env")).unwrap();
    assert!(env.contains("cluster-key") && !env.contains("s3cret-token"), "{env}");
    for url in ["https://me:s3cret-token@127.0.0.1:1/x", "ftp://me:s3cret-token@h/x"] {
        let (ok, said) = run(format!(r#"{{"url": "{url}", "ref": "trunk"}}"#)).await;
        assert!(!ok && !said.contains("s3cret-token"), "{said}");
    }
    let (ok, said) = run("s3cret-token".into()).await;
    assert!(!ok && said.contains("stdin must be JSON") && !said.contains("s3cret"), "{said}");
}
