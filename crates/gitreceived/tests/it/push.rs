//! Pushes by real git over real OpenSSH.

use std::{fs, time::Duration};

use rand::RngExt;
use rustix::process::{Pid, Signal, kill_process_group};
use testkit::wait_until;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::world::World;

#[tokio::test]
async fn a_push_is_handed_to_the_receiver_and_its_words_to_the_pusher() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let (ok, said) = world.push("app").await;
    assert!(ok, "{said}");
    assert!(said.contains("remote: -----> Building my-app"), "{said}");
    assert!(said.contains("remote: =====> Application deployed"), "{said}");
    assert_eq!(world.head().unwrap(), world.git("app", &["rev-parse", "master"]).await.trim());
    assert_eq!(fs::read_to_string(world.path("tree/hello.txt")).unwrap(), "hello");
    let env = fs::read_to_string(world.path("env")).unwrap();
    for wanted in [
        "RECEIVE_REPO=my-app",
        "RECEIVE_USER=git",
        "CONTROLLER_KEY=controller-key",
        "FLYNN_HEAD_OLD=\n",
        "FLYNN_PACKS_OLD=\n",
    ] {
        assert!(env.contains(wanted), "{wanted}: {env}");
    }
    assert!(!env.contains("GIT_") && !env.contains("CARGO"), "{env}");
    let (ok, said) = world.push("app").await;
    assert!(ok && said.contains("Everything up-to-date"), "{said}");
    let seen = format!("FLYNN_PACKS_OLD={}\n", world.packs().join(","));
    world.commit("app", "two", b"2").await;
    assert!(world.push("app").await.0);
    let env = fs::read_to_string(world.path("env")).unwrap();
    assert!(seen.contains(".pack") && env.contains(&seen), "{seen}: {env}");
    world.end().await;
}

#[tokio::test]
async fn an_unknown_key_is_told_what_to_do_and_works_once_it_is_added() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    world.user("stranger").await;
    let push = ["push", "flynn", "master"];
    let (ok, said) = world.git_as("stranger", "app", &push).await;
    assert!(!ok && said.contains("is not known here. To add it: flynn key-add"), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
    assert_eq!(said.matches("is not known here").count(), 1, "{said}");
    world.add_key("stranger");
    let (ok, said) = world.git_as("stranger", "app", &push).await;
    assert!(ok, "{said}");
    // The answer just given counts while the controller is away; a key it did not name cannot be decided.
    *world.fake().away.lock().unwrap() = true;
    let (ok, said) = world.git_as("stranger", "app", &push).await;
    assert!(!ok && said.contains("The controller could not be asked about my-app"), "{said}");
    world.user("other").await;
    let (ok, said) = world.git_as("other", "app", &push).await;
    assert!(!ok && said.contains("cannot be checked now"), "{said}");
    world.end().await;
}

#[tokio::test]
async fn a_key_that_is_bound_to_apps_pushes_to_them_and_to_no_other() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    for user in ["guest", "member"] {
        world.user(user).await;
    }
    let other = api::id::AppId::random();
    world.add_key_for("guest", &[other]);
    world.add_key_for("member", &[other, world.fake().app]);
    let push = ["push", "flynn", "master"];
    let (ok, said) = world.git_as("guest", "app", &push).await;
    assert!(!ok && said.contains("may not push to my-app: it is bound to other apps"), "{said}");
    // A branch that does not deploy is no way in.
    let (ok, said) = world.git_as("guest", "app", &["push", "flynn", "master:kept"]).await;
    assert!(!ok && said.contains("may not push"), "{said}");
    assert_eq!(world.head(), None);
    let (ok, said) = world.git_as("member", "app", &push).await;
    assert!(ok, "{said}");
    world.end().await;
}

#[tokio::test]
async fn a_checker_of_the_operators_own_decides_instead_of_the_controller() {
    let mut world = World::new().await;
    world.repository("app", "my-app").await;
    world.user("stranger").await;
    let checker =
        r#"test "$1" = git && echo "$2" | grep -q "^ssh-ed25519 " && ! env | grep -q SSH_"#;
    world.authchecker = ["sh", "-c", checker, "sh"].map(str::to_owned).to_vec();
    world.restart_elsewhere().await;
    let (ok, said) = world.git_as("stranger", "app", &["push", "flynn", "master"]).await;
    assert!(ok, "{said}");
    world.authchecker = vec!["false".into()];
    world.restart_elsewhere().await;
    let (ok, said) = world.push("app").await;
    assert!(!ok && said.contains("is not known here"), "{said}");
    world.end().await;
}

#[tokio::test]
async fn weak_keys_are_refused_whoever_knows_them() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    for (name, bits, algorithms) in [("short", "1024", "rsa-sha2-512"), ("sha1", "2048", "ssh-rsa")]
    {
        let file = world.path(name);
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "rsa", "-b", bits, "-N", "", "-C", name, "-f"]).arg(file);
        assert!(keygen.status().await.unwrap().success());
        world.add_key(name);
        let ssh = format!(
            "{} -o PubkeyAcceptedAlgorithms={algorithms} -o RequiredRSASize=1024",
            world.ssh(name)
        );
        let mut git = world.git_command(name, "app", &["push", "flynn", "master"]);
        let output = git.env("GIT_SSH_COMMAND", ssh).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("Permission denied"), "{name}: {said}");
    }
    world.end().await;
}

#[tokio::test]
async fn what_is_not_a_push_to_an_app_is_refused_with_a_sentence() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let pushes: [(&[&str], &str); 4] = [
        (&["push", "flynn", "master:refs/notes/x"], "notes/x is neither a branch nor a tag"),
        (&["push", "ssh://git@127.0.0.1/nobody.git", "master"], "flynn create nobody"),
        (&["push", "ssh://git@127.0.0.1/controller.git", "master"], "a part of Flynn itself"),
        (&["push", "ssh://git@127.0.0.1/a/../b.git", "master"], "is not the name of an app"),
    ];
    for (args, why) in pushes {
        let (ok, said) = world.git_as("me", "app", args).await;
        assert!(!ok && said.contains(why), "{args:?}: {said}");
        assert_eq!(world.head(), None);
    }
    let (ok, said) = world.git_as("me", "app", &["fetch", "flynn"]).await;
    assert!(!ok && said.contains("only takes git push"), "{said}");
    assert!(world.push("app").await.0);
    let (ok, said) = world.git_as("me", "app", &["push", "flynn", ":master"]).await;
    assert!(!ok && said.contains("flynn delete"), "{said}");
    world.end().await;
}

#[tokio::test]
async fn a_shell_gets_a_greeting_and_status_1() {
    let world = World::new().await;
    for args in ["", "-tt", "-T"] {
        let ssh = format!("{} {args} git@127.0.0.1", world.ssh("me"));
        let mut shell = Command::new("sh");
        shell.args(["-c", &ssh]).stdin(std::process::Stdio::null());
        let output = tokio::time::timeout(Duration::from_secs(20), shell.output()).await;
        let output = output.unwrap().unwrap();
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("Hi! This server only takes git push."), "{args}: {said}");
        assert_eq!(output.status.code(), Some(1), "{args}: {said}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_failed_receiver_rejects_the_push_and_the_same_commit_can_be_pushed_again() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    fs::write(world.path("fail"), "").unwrap();
    let (ok, said) = world.push("app").await;
    assert!(!ok && said.contains("remote: the build failed"), "{said}");
    assert!(said.contains("pre-receive hook declined"), "{said}");
    assert_eq!(*world.fake().lease.lock().unwrap(), None);
    fs::remove_file(world.path("fail")).unwrap();
    let (ok, said) = world.push("app").await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    world.end().await;
}

#[tokio::test]
async fn another_instance_takes_the_next_push_with_only_what_is_new() {
    let mut world = World::new().await;
    world.repository("app", "my-app").await;
    let noise: Vec<u8> = rand::rng().random_iter().take(1_000_000).collect();
    world.commit("app", "noise", &noise).await;
    assert!(world.push("app").await.0);
    world.restart_elsewhere().await;
    world.commit("app", "more.txt", b"more").await;
    let (ok, said) = world.push("app").await;
    assert!(ok, "{said}");
    let sizes: Vec<u64> =
        world.shelf.list("/repos/").await.unwrap().iter().map(|pack| pack.size).collect();
    assert_eq!(world.packs().len(), 2);
    assert!(sizes.iter().any(|size| *size < 2_000) && sizes.len() == 2, "{sizes:?}");
    // The deployment of a push that broke off completed later: the head moved without us.
    let head = world.git("app", &["rev-parse", "HEAD"]).await;
    world.commit("app", "last.txt", b"last").await;
    assert!(world.push("app").await.0);
    fs::write(world.path("head"), head.trim()).unwrap();
    let (ok, said) = world.push("app").await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    // A forced push goes back and is a deployment like any other.
    world.git("app", &["reset", "-q", "--hard", "HEAD~2"]).await;
    let (ok, said) = world.git_as("me", "app", &["push", "-f", "flynn", "master"]).await;
    assert!(ok, "{said}");
    assert_eq!(world.head().unwrap(), world.git("app", &["rev-parse", "master"]).await.trim());
    world.end().await;
}

#[tokio::test]
async fn fifty_megabytes_arrive() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let noise: Vec<u8> = rand::rng().random_iter().take(50 << 20).collect();
    world.commit("app", "noise", &noise).await;
    let (ok, said) = world.push("app").await;
    assert!(ok, "{said}");
    assert_eq!(fs::read(world.path("tree/noise")).unwrap(), noise);
    assert!(world.shelf.list("/repos/").await.unwrap()[0].size > 50 << 20);
    world.end().await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_behind() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    fs::write(world.path("wait"), "").unwrap();
    let mut push = world.git_command("me", "app", &["push", "flynn", "master"]);
    let mut push = push.process_group(0).spawn().unwrap();
    let receiver = wait_until("the receiver runs", async || {
        world.receiver_pid().filter(|pid| pid.exists()).ok_or("not yet")
    })
    .await;
    let mut waiting = world.git_command("me", "app", &["push", "flynn", "master"]).spawn().unwrap();
    let mut lines = BufReader::new(waiting.stderr.take().unwrap()).lines();
    let said = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("Another push to my-app is under way") {
                return;
            }
        }
        panic!("the second push did not wait");
    };
    tokio::time::timeout(Duration::from_secs(20), said).await.unwrap();
    // As Ctrl-C does: git and its ssh.
    let group = Pid::from_raw(push.id().unwrap() as i32).unwrap();
    kill_process_group(group, Signal::INT).unwrap();
    push.wait().await.unwrap();
    wait_until(
        "the receiver is gone",
        async || {
            if receiver.exists() { Err("still there") } else { Ok(()) }
        },
    )
    .await;
    let left = async || {
        let objects = world.path("cache").read_dir().unwrap().flatten();
        let objects = objects.filter_map(|copy| copy.path().join("objects").read_dir().ok());
        let names = objects.flatten().flatten().map(|entry| entry.file_name());
        let left: Vec<_> =
            names.filter(|name| name.to_string_lossy().starts_with("tmp_")).collect();
        // That of the push which waits.
        if left.len() <= 1 { Ok(()) } else { Err(left) }
    };
    wait_until("the objects of the broken-off push are gone", left).await;
    fs::remove_file(world.path("wait")).unwrap();
    let deployed = async { while lines.next_line().await.unwrap().is_some() {} };
    let (status, ()) = tokio::join!(waiting.wait(), deployed);
    assert!(status.unwrap().success());
    assert!(world.head().is_some());
    wait_until("the lease is given back", async || match &*world.fake().lease.lock().unwrap() {
        Some(holder) => Err(holder.clone()),
        None => Ok(()),
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn a_copy_that_lost_its_objects_is_made_again() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let push = async |commit: &str| {
        // Most of it is as it was, so that it is sent as a difference.
        let mut text: String = (0..2000).map(|line| format!("{line}\n")).collect();
        text.push_str(commit);
        world.commit("app", "text", text.as_bytes()).await;
        world.git_as("me", "app", &["push", "flynn", "master"]).await
    };
    let (ok, said) = push("one").await;
    assert!(ok, "{said}");
    let mut copies = world.path("cache").read_dir().unwrap().flatten().map(|entry| entry.path());
    let copy = copies.find(|path| path.extension().is_some_and(|it| it == "git")).unwrap();
    // What was pushed here need not be fetched.
    let imported = fs::read_to_string(copy.join("flynn-packs")).unwrap();
    assert_eq!(imported.trim(), fs::read_to_string(world.path("packs")).unwrap());
    fs::remove_dir_all(copy.join("objects")).unwrap();
    fs::create_dir(copy.join("objects")).unwrap();
    wait_until("a push is taken", async || match push("two").await {
        (true, _) => Ok(()),
        (false, said) => Err(said),
    })
    .await;
    world.end().await;
}
