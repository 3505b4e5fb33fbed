//! What goes wrong around a push, and what then becomes of it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::Path,
    process::Stdio,
    time::Duration,
};

use daemon::Lifetime;
use gitreceived::{Config, StartError};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use testkit::wait_until;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStderr},
};

use crate::lone::{Lone, URL, script};

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().unwrap().cast_signed()).unwrap()
}

#[tokio::test]
async fn a_client_that_reads_nothing_locks_no_repository() {
    let lone = Lone::with(|server| {
        server.env("PUSH_IDLE_TIMEOUT", "2");
    })
    .await;
    lone.commit("one").await;
    let receiver = fs::read_to_string(lone.path("receiver")).unwrap();
    let noisy = "#!/bin/sh\ntouch $(dirname $0)/runs\nyes | head -c 30000000\n";
    script(&lone.path("receiver"), noisy);
    let mut deaf = lone.git_command("key", &["push", URL, "main"]);
    // Nothing reads the pipe, so git stops, and its ssh.
    let deaf = deaf.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let runs = lone.path("runs");
    wait_until("the receiver runs", async || runs.exists().then_some(()).ok_or("not yet")).await;
    script(&lone.path("receiver"), &receiver);
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok && said.contains("anything at"), "{said}");
    drop(deaf);
}

#[tokio::test]
async fn pushes_are_judged_also_when_the_hooks_were_removed() {
    let lone = Lone::new().await;
    let run_dir = lone.run_dir();
    let remove_hooks = || {
        for hook in ["pre-receive", "proc-receive"] {
            fs::remove_file(run_dir.join(hook)).unwrap();
        }
    };
    let commit = lone.commit("one").await;
    remove_hooks();
    let (ok, said) = lone.push("key", "main:refs/odd/x").await;
    assert!(!ok && said.contains("neither a branch nor a tag"), "{said}");
    remove_hooks();
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok, "{said}");
    assert_eq!(lone.kept("main").await, commit);
    // A cleaner removes the directory too.
    fs::remove_dir_all(&run_dir).unwrap();
    let (ok, said) = lone.push("key", "main:refs/odd/x").await;
    assert!(!ok && said.contains("neither a branch nor a tag"), "{said}");
    let second = lone.commit("two").await;
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok && said.contains("anything at"), "{said}");
    assert_eq!(lone.kept("main").await, second);
}

#[tokio::test]
async fn hooks_that_go_while_git_runs_let_nothing_through() {
    let lone = Lone::new().await;
    lone.commit("one").await;
    let dir = lone.run_dir().display().to_string();
    for (hooks, why) in [("pre-receive", "has not taken this push"), ("p*-receive", "proc-receive")]
    {
        lone.meanwhile(&format!("rm {dir}/{hooks}"));
        for what in ["main", "main:refs/tags/v1", "main:refs/odd/x"] {
            let (ok, said) = lone.push("key", what).await;
            assert!(!ok && said.contains(why), "{what}: {said}");
        }
    }
    for name in ["main", "v1", "refs/odd/x"] {
        assert_eq!(lone.kept(name).await, "", "{name}");
    }
    assert!(!lone.path("runs").exists(), "the receiver is not asked");
}

#[tokio::test]
async fn a_temporary_directory_of_any_name_holds_the_hooks() {
    let name = OsStr::from_bytes(b"tmp/\xff");
    let lone = Lone::with(|server| {
        let dir = server.as_std().get_current_dir().unwrap();
        fs::create_dir(dir.join(name)).unwrap();
        server.env("TMPDIR", name);
    })
    .await;
    lone.commit("one").await;
    let (ok, said) = lone.push("key", "main:refs/odd/x").await;
    assert!(!ok && said.contains("neither a branch nor a tag"), "{said}");
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok && said.contains("anything at"), "{said}");
}

#[tokio::test]
async fn each_of_two_names_of_what_is_deployed_is_as_the_pusher_saw_it() {
    let lone = Lone::new().await;
    lone.commit("one").await;
    let (ok, said) = lone.git("key", &["push", URL, "main", "main:master"]).await;
    assert!(ok, "{said}");
    for branch in ["theirs", "ours"] {
        lone.git("key", &["checkout", "-q", "-b", branch, "main"]).await;
        lone.commit(branch).await;
    }
    lone.meanwhile(&format!("exec git push --no-verify {URL} theirs:master"));
    let (ok, said) = lone.git("key", &["push", URL, "ours:main", "ours:master"]).await;
    assert!(!ok && said.contains("Another push moved refs/heads/master meanwhile"), "{said}");
    let theirs = lone.git("key", &["rev-parse", "theirs"]).await.1;
    assert_eq!(lone.kept("master").await, theirs.trim());
}

#[tokio::test]
async fn a_lock_that_is_left_while_a_push_is_under_way_does_not_stop_it() {
    let lone = Lone::new().await;
    lone.commit("one").await;
    assert!(lone.push("key", "main").await.0);
    let second = lone.commit("two").await;
    let repo = lone.path("repos/anything.git").display().to_string();
    lone.meanwhile(&format!("touch {repo}/refs/heads/main.lock {repo}/packed-refs.new"));
    let (ok, said) = lone.git("key", &["push", URL, "main", "main:later"]).await;
    assert!(ok, "{said}");
    assert_eq!(lone.kept("main").await, second);
    let (ok, said) = lone.push("key", ":later").await;
    assert!(ok, "{said}");
}

#[tokio::test]
async fn a_broken_ref_is_named_before_anything_is_deployed() {
    let lone = Lone::new().await;
    lone.commit("one").await;
    assert!(lone.push("key", "main:feat").await.0);
    fs::write(lone.path("repos/anything.git/refs/heads/feat"), "").unwrap();
    let commit = lone.commit("two").await;
    let (ok, said) = lone.push("key", "main").await;
    assert!(!ok && said.contains("refs/heads/feat points to nothing"), "{said}");
    assert!(!lone.path("runs").exists(), "the receiver is not asked");
    fs::remove_file(lone.path("repos/anything.git/refs/heads/feat")).unwrap();
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok, "{said}");
    assert_eq!(lone.kept("main").await, commit);
}

#[tokio::test]
async fn a_receiver_that_finishes_when_it_is_told_to_stop_is_believed() {
    let lone = Lone::new().await;
    let commit = lone.commit("one").await;
    let stubborn =
        "#!/bin/sh\ntrap 'exit 0' TERM\ntouch $(dirname $0)/runs\nwhile :; do sleep 0.05; done\n";
    script(&lone.path("receiver"), stubborn);
    let mut push = lone.git_command("key", &["push", URL, "main"]);
    let mut push = push.process_group(0).spawn().unwrap();
    let runs = lone.path("runs");
    wait_until("the receiver runs", async || runs.exists().then_some(()).ok_or("not yet")).await;
    kill_process_group(pid(&push), Signal::KILL).unwrap();
    push.wait().await.unwrap();
    wait_until("main has moved", async || match lone.kept("main").await {
        kept if kept == commit => Ok(()),
        kept => Err(kept),
    })
    .await;
}

/// The processes that a process has started, by a word of their command line.
fn children(parent: Pid, word: &str) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let dir = entry.path();
        let stat = fs::read_to_string(dir.join("stat")).ok()?;
        let is_child = stat.rsplit_once(')')?.1.split_whitespace().nth(1)? == parent;
        let line = fs::read(dir.join("cmdline")).ok()?;
        let has_word = line.split(|byte| *byte == 0).any(|part| part == word.as_bytes());
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Pid::from_raw(pid).filter(|_| is_child && has_word)
    });
    processes.collect()
}

#[tokio::test]
async fn a_push_whose_git_was_killed_is_given_up() {
    let lone = Lone::new().await;
    let commit = lone.commit("one").await;
    fs::write(lone.path("hold"), "").unwrap();
    let killing = async {
        let runs = lone.path("runs");
        wait_until("the receiver runs", async || runs.exists().then_some(()).ok_or("not yet"))
            .await;
        let gits = children(pid(&lone.server), "receive-pack");
        assert_eq!(gits.len(), 1);
        kill_process(gits[0], Signal::KILL).unwrap();
    };
    let pushing = tokio::time::timeout(Duration::from_secs(20), lone.push("key", "main"));
    let (pushed, ()) = tokio::join!(pushing, killing);
    let (ok, said) = pushed.expect("it is waiting for the receiver");
    assert!(!ok, "{said}");
    fs::remove_file(lone.path("hold")).unwrap();
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok && said.contains("anything at"), "{said}");
    assert_eq!(lone.kept("main").await, commit);
}

fn config(dir: &Path) -> Config {
    let mut random = rand::rng();
    let host_key = russh::keys::PrivateKey::random(&mut random, russh::keys::Algorithm::Ed25519);
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        authchecker: vec!["true".into()],
        receiver: vec!["true".into()],
        receiver_env: BTreeMap::new(),
        hook: env!("CARGO_BIN_EXE_gitreceived").into(),
        cache_dir: dir.into(),
        host_keys: vec![host_key.unwrap()],
        cluster: None,
        path: "/usr/bin:/bin".into(),
        push_timeout: Duration::from_secs(120),
        push_idle_timeout: Duration::from_secs(120),
        stop_grace: Duration::from_secs(8),
        disk_len_max: 24 << 30,
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_gitreceived_takes_the_folder_only_when_the_first_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (Lifetime::default(), Lifetime::default());
    gitreceived::start(config(dir.path()), &first).await.unwrap();
    let refused = gitreceived::start(config(dir.path()), &second).await.unwrap_err();
    assert!(matches!(refused, StartError::Used { .. }), "{refused}");
    let (ended, started) = tokio::join!(
        first.drain(Duration::from_secs(5)),
        gitreceived::start(config(dir.path()), &second)
    );
    ended.unwrap();
    started.unwrap();
    second.end();
}

/// Pushes something, and does something else while the receiver runs.
async fn push_while(lone: &Lone, what: &[&str], other: impl AsyncFnOnce()) -> (bool, String) {
    let runs = lone.path("runs");
    let _ = fs::remove_file(&runs);
    fs::write(lone.path("hold"), "").unwrap();
    let args = [&["push", URL], what].concat();
    let during = async {
        wait_until("the receiver runs", async || runs.exists().then_some(()).ok_or("not yet"))
            .await;
        other().await;
        fs::remove_file(lone.path("hold")).unwrap();
    };
    tokio::join!(lone.git("key", &args), during).0
}

#[tokio::test]
async fn what_somebody_moves_while_the_receiver_runs_is_not_overwritten() {
    let lone = Lone::new().await;
    let first = lone.commit("one").await;
    let (ok, said) = lone.git("key", &["push", URL, "main", "main:x", "main:gone"]).await;
    assert!(ok, "{said}");
    let second = lone.commit("two").await;
    let repo = format!("--git-dir={}", lone.path("repos/anything.git").display());
    let theirs = ["commit-tree", "-m", "theirs", "-p", &first, &format!("{first}^{{tree}}")];
    let theirs = lone.git("key", &[&[&*repo][..], &theirs].concat()).await.1.trim().to_owned();
    let what = ["main", "main:x", "main:free", ":gone"];
    let (ok, said) = push_while(&lone, &what, async || {
        for name in ["main", "x", "gone"] {
            let set = [&*repo, "update-ref", &format!("refs/heads/{name}"), &theirs];
            assert!(lone.git("key", &set).await.0);
        }
    })
    .await;
    assert!(!ok && said.matches("somebody else moved it").count() == 2, "{said}");
    let deployed = format!("{second} is deployed all the same");
    assert!(said.contains("Not moved here: ") && said.contains(&deployed), "{said}");
    for (name, at) in [("main", &theirs), ("x", &theirs), ("gone", &theirs), ("free", &second)] {
        assert_eq!(&lone.kept(name).await, at, "{name}: {said}");
    }
}

#[tokio::test]
async fn a_push_that_is_deployed_and_cannot_be_stored_says_so_and_deletes_nothing() {
    let lone = Lone::new().await;
    let first = lone.commit("one").await;
    let (ok, said) = lone.git("key", &["push", URL, "main", "main:old"]).await;
    assert!(ok, "{said}");
    let second = lone.commit("two").await;
    let lock = lone.path("repos/anything.git/refs/heads/main.lock");
    let what = ["main", ":old"];
    let (ok, said) = push_while(&lone, &what, async || fs::write(&lock, "").unwrap()).await;
    let deployed = format!("Not moved here: main, old. {second} is deployed all the same");
    assert!(!ok && said.contains(&deployed) && said.contains("push again"), "{said}");
    assert_eq!((lone.kept("main").await, lone.kept("old").await), (first.clone(), first));
    let (ok, said) = lone.git("key", &["push", URL, "main", ":old"]).await;
    assert!(ok && lone.kept("main").await == second, "{said}");
}

/// Once a push is told that it waits for another: what it was told, and where more comes.
async fn waiting(push: &mut Child) -> (String, BufReader<ChildStderr>) {
    let mut said = String::new();
    let mut stderr = BufReader::new(push.stderr.take().unwrap());
    while !said.contains("Another push to anything is under way") {
        assert!(stderr.read_line(&mut said).await.unwrap() > 0, "{said}");
    }
    (said, stderr)
}

#[tokio::test]
async fn a_receiver_whose_gitreceived_was_killed_ends_before_the_next_one_runs() {
    let mut lone = Lone::new().await;
    lone.commit("one").await;
    let receiver = fs::read_to_string(lone.path("receiver")).unwrap();
    // One that takes its time when it is told to stop, notes when it has, and says what it does all the while.
    let slow = "#!/bin/sh\ncd $(dirname $0)\n\
                trap 'echo stopping; touch told; while [ -e hold ]; do sleep 0.05; echo waiting; done; touch ended; exit 1' TERM\n\
                touch runs\nwhile :; do sleep 0.05; echo building; done\n";
    script(&lone.path("receiver"), slow);
    fs::write(lone.path("hold"), "").unwrap();
    let appears = async |name: &str| {
        let file = lone.dir.path().join(name);
        wait_until(name, async || file.exists().then_some(()).ok_or("not yet")).await;
    };
    let mut first = lone.git_command("key", &["push", URL, "main"]);
    let mut first = first.spawn().unwrap();
    appears("runs").await;
    kill_process(pid(&lone.server), Signal::KILL).unwrap();
    appears("told").await;
    assert!(!first.wait().await.unwrap().success());
    (lone.server, lone.port) = lone.beside("repos").await;
    let says = "[ -e $(dirname $0)/ended ] && echo alone\n";
    script(&lone.path("receiver"), &receiver.replacen('\n', &format!("\n{says}"), 1));
    let mut second = lone.git_command("key", &["push", URL, "main"]);
    let mut second = second.stderr(Stdio::piped()).spawn().unwrap();
    let (mut said, mut stderr) = waiting(&mut second).await;
    fs::remove_file(lone.path("hold")).unwrap();
    stderr.read_to_string(&mut said).await.unwrap();
    assert!(second.wait().await.unwrap().success() && said.contains("alone"), "{said}");
}

#[tokio::test]
async fn a_receiver_that_fails_without_a_word_is_named_and_nothing_else_is_said_to_be_done() {
    let lone = Lone::new().await;
    lone.commit("one").await;
    assert!(lone.git("key", &["push", URL, "main:old"]).await.0);
    script(&lone.path("receiver"), "#!/bin/sh\ncat >/dev/null\nexit 255\n");
    let (ok, said) = lone.git("key", &["push", URL, "main", ":old"]).await;
    assert!(!ok && said.contains("receiver ended with exit status: 255. Push again."), "{said}");
    assert!(!said.contains("old is deleted"), "{said}");
    script(&lone.path("receiver"), "#!/bin/sh\ncat >/dev/null\n");
    let (ok, said) = lone.git("key", &["push", URL, "main", ":old"]).await;
    assert!(ok && said.contains("old is deleted"), "{said}");
}

#[tokio::test]
async fn a_push_is_told_that_it_is_deployed_when_git_has_lost_what_was_to_be_stored() {
    let lone = Lone::new().await;
    let commit = lone.commit("one").await;
    // As `git gc --prune=now` does.
    let prune =
        "#!/bin/sh\ncat >/dev/null\nrm -rf $(dirname $0)/repos/anything.git/objects/tmp_objdir-*\n";
    script(&lone.path("receiver"), prune);
    let (ok, said) = lone.push("key", "main").await;
    let told = format!("{commit} is deployed all the same");
    assert!(!ok && said.contains(&told) && said.contains("push again"), "{said}");
}

#[tokio::test]
async fn what_a_receiver_sends_to_its_group_ends_nothing_else() {
    let lone = Lone::new().await;
    let commit = lone.commit("one").await;
    let line = "trap '' HUP INT QUIT USR1 ALRM; for name in HUP INT QUIT USR1 ALRM; do kill -$name 0; kill -$name -$$ || exit 1; done; \
                cat >/dev/null; echo done";
    script(&lone.path("receiver"), &format!("#!/bin/sh\n{line}\n"));
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok && said.contains("done") && lone.kept("main").await == commit, "{said}");
}

#[tokio::test]
async fn what_a_stopped_receiver_left_outside_its_group_ends_with_it() {
    let lone = Lone::new().await;
    lone.commit("one").await;
    let apart =
        "trap \"\" TERM; echo $$ >apart.new; mv apart.new apart; while :; do sleep 0.05; done";
    let receiver = format!(
        "#!/bin/sh\ncd $(dirname $0)\n(setsid sh -c '{apart}' &)\nwhile :; do sleep 0.05; done\n"
    );
    script(&lone.path("receiver"), &receiver);
    let mut push = lone.git_command("key", &["push", URL, "main"]);
    let mut push = push.stderr(Stdio::null()).process_group(0).spawn().unwrap();
    let apart = wait_until("it runs", async || fs::read_to_string(lone.path("apart"))).await;
    let apart = Path::new("/proc").join(apart.trim());
    assert!(apart.exists());
    kill_process_group(pid(&push), Signal::KILL).unwrap();
    push.wait().await.unwrap();
    wait_until("it is gone", async || (!apart.exists()).then_some(()).ok_or("it runs")).await;
}

#[tokio::test]
async fn two_gitreceiveds_with_one_repository_behind_links_take_turns() {
    let mut lone = Lone::new().await;
    let first = lone.commit("one").await;
    let real = lone.path("real.git").display().to_string();
    assert!(lone.git("key", &["init", "-q", "--bare", &real]).await.0);
    fs::create_dir(lone.path("others")).unwrap();
    for folder in ["repos", "others"] {
        symlink("../real.git", lone.path(folder).join("anything.git")).unwrap();
    }
    let (other, port) = lone.beside("others").await;
    let runs = lone.path("runs");
    fs::write(lone.path("hold"), "").unwrap();
    let mut pushing = lone.git_command("key", &["push", URL, "main"]);
    let mut pushing = pushing.stderr(Stdio::null()).spawn().unwrap();
    wait_until("the receiver runs", async || runs.exists().then_some(()).ok_or("not yet")).await;
    lone.git("key", &["checkout", "-q", "--orphan", "unrelated"]).await;
    lone.commit("two").await;
    lone.port = port;
    let mut second = lone.git_command("key", &["push", URL, "unrelated:main"]);
    let mut second = second.stderr(Stdio::piped()).spawn().unwrap();
    let (mut said, mut stderr) = waiting(&mut second).await;
    fs::remove_file(lone.path("hold")).unwrap();
    assert!(pushing.wait().await.unwrap().success());
    stderr.read_to_string(&mut said).await.unwrap();
    assert!(!second.wait().await.unwrap().success(), "{said}");
    assert!(said.contains("Another push moved refs/heads/main meanwhile"), "{said}");
    assert_eq!(lone.kept("main").await, first);
    drop(other);
}
