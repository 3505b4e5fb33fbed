//! The program by itself.

use std::{fs, path::Path};

use rustix::process::{Pid, Signal, kill_process};
use testkit::wait_until;
use tokio::process::Command;

use crate::lone::{Lone, URL};

#[tokio::test]
async fn a_push_is_decided_by_two_scripts_and_kept_in_a_folder() {
    let mut lone = Lone::new().await;
    let first = lone.commit("one").await;
    let (ok, said) = lone.push("stranger", "main").await;
    assert!(!ok && said.contains("is not known here."), "{said}");
    assert!(!said.contains("flynn key-add"), "{said}");
    let (ok, said) = lone.push("key", "main").await;
    let words =
        format!("remote: anything at {first} for git with a word of the operator's, after nothing");
    assert!(ok && said.contains(&words), "{said}");
    assert_eq!(fs::read_to_string(lone.path("tree/one")).unwrap(), "one");
    assert_eq!(lone.kept("main").await, first);
    let second = lone.commit("two").await;
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok && said.contains(&format!("at {second} for git")), "{said}");
    assert!(said.contains(&format!("after {first}")), "{said}");
    // A receiver that fails refuses the push, and nothing of it is kept.
    lone.commit("refused").await;
    let (ok, said) = lone.push("key", "main").await;
    assert!(!ok && said.contains("pre-receive hook declined"), "{said}");
    assert_eq!(lone.kept("main").await, second);
    // Other branches are kept and run nothing.
    let (ok, said) = lone.push("key", "main:later").await;
    assert!(ok && !said.contains("anything at"), "{said}");
    assert_ne!(lone.kept("later").await, second);
    lone.server.kill().await.unwrap();
}

#[tokio::test]
async fn a_branch_that_cannot_be_set_is_refused_before_the_receiver_runs() {
    let mut lone = Lone::new().await;
    lone.commit("one").await;
    let (ok, said) = lone.push("key", "main:refs/heads/main/x").await;
    assert!(!ok && said.contains("there is 'refs/heads/main'"), "{said}");
    // One that is there from before.
    let (ok, said) = lone.push("key", "main:refs/heads/mine").await;
    assert!(ok, "{said}");
    let repo = format!("--git-dir={}", lone.path("repos/anything.git").display());
    assert!(lone.git("key", &[&repo, "branch", "-m", "mine", "main/x"]).await.0);
    let (ok, said) = lone.push("key", "main").await;
    assert!(!ok && said.contains("there is 'refs/heads/main/x'"), "{said}");
    assert!(!said.contains("anything at"), "{said}");
    assert!(lone.push("key", ":main/x").await.0);
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok && said.contains("anything at"), "{said}");
    lone.server.kill().await.unwrap();
}

#[tokio::test]
async fn a_repository_has_any_name_that_stays_in_the_folder_and_no_cluster_is_spoken_of() {
    let mut lone = Lone::new().await;
    let first = lone.commit("one").await;
    let push = async |path: &str, what: &str| {
        lone.git("key", &["push", &format!("ssh://git@127.0.0.1/{path}"), what]).await
    };
    for (path, name) in
        [("org/any.git", "org/any"), ("My_App.git", "My_App"), ("org/two", "org/two")]
    {
        let (ok, said) = push(path, "main").await;
        assert!(ok && said.contains(&format!("{name} at {first}")), "{said}");
        assert!(lone.path(&format!("repos/{name}.git/HEAD")).exists());
    }
    for (path, what) in [
        ("../out.git", "main"),
        ("org/any.git/in.git", "main"),
        ("My_App.git", ":main"),
        ("My_App.git", "main:refs/notes/x"),
    ] {
        let (ok, said) = push(path, what).await;
        assert!(!ok && !said.contains("flynn"), "{said}");
    }
    let (ok, said) = push("My_App.git", "main:later").await;
    assert!(ok && said.contains("later is kept") && !said.contains("flynn"), "{said}");
    assert!(!lone.path("out.git").exists());
    lone.server.kill().await.unwrap();
}

#[tokio::test]
async fn commands_that_cannot_be_run_are_told_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    fs::write(&plain, "").unwrap();
    let plain = plain.display().to_string();
    for args in [["./missing", "true"], ["true", &plain], ["true", "no-such-program -x"]] {
        let mut server = Command::new(env!("CARGO_BIN_EXE_gitreceived"));
        server.args(args).current_dir(&dir).env_clear();
        let output = server.env("SSH_PRIVATE_KEYS", "x").output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("no such executable file"), "{said}");
    }
}

#[tokio::test]
async fn without_a_cluster_and_without_two_commands_it_says_how_it_is_run() {
    let hostkey = Path::new("/nothing");
    for args in [&[][..], &["true"], &["", "true"]] {
        let mut server = Command::new(env!("CARGO_BIN_EXE_gitreceived"));
        server.arg("-k").arg(hostkey).args(args).env_clear();
        let output = server.env("SSH_PRIVATE_KEYS", "x").output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("<authchecker> <receiver>"), "{said}");
    }
}

#[tokio::test]
async fn it_waits_for_pushes_when_it_shall_stop_until_it_is_told_again() {
    let mut lone = Lone::new().await;
    lone.commit("file").await;
    fs::write(lone.path("hold"), "").unwrap();
    let pid = Pid::from_raw(lone.server.id().unwrap().cast_signed()).unwrap();
    let port = lone.port;
    let stop = async {
        let runs = lone.path("runs");
        wait_until("the receiver runs", async || runs.exists().then_some(()).ok_or("not yet"))
            .await;
        kill_process(pid, Signal::TERM).unwrap();
        wait_until("nobody new is let in", async || {
            match tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
                Ok(_) => Err("it still listens"),
                Err(_) => Ok(()),
            }
        })
        .await;
        // It may not listen to the second one yet.
        wait_until("it has ended", async || match kill_process(pid, Signal::TERM) {
            Ok(()) if !is_over(pid) => Err("it waits"),
            _ => Ok(()),
        })
        .await;
    };
    let ((pushed, said), ()) = tokio::join!(lone.push("key", "main"), stop);
    assert!(!pushed && said.contains("This server is restarting"), "{said}");
    assert!(lone.server.wait().await.unwrap().success());
}

/// Whether a process has ended, and waits for its parent to hear of it.
fn is_over(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z')
}

#[tokio::test]
async fn nothing_of_a_push_that_is_too_long_to_be_judged_is_taken() {
    let lone = Lone::new().await;
    let commit = lone.commit("refused").await;
    // As many as are taken at once, with names as long as git has them.
    let folder = format!("{}/", "a".repeat(240)).repeat(9);
    let refs: String = (0..480).map(|n| format!("{commit} refs/heads/{folder}{n}\n")).collect();
    fs::write(lone.path("work/.git/packed-refs"), format!("# pack-refs with: \n{refs}")).unwrap();
    let (ok, said) = lone.git("key", &["push", URL, "--all"]).await;
    assert!(!ok && said.contains("push fewer at once"), "{said}");
    assert_eq!(lone.kept("refs/heads/main").await, "");
    assert!(!lone.path("runs").exists(), "the receiver is not asked");
}

#[tokio::test]
async fn what_a_git_that_was_killed_left_stops_no_later_push() {
    let lone = Lone::new().await;
    let repo = lone.path("repos/anything.git");
    // It was making the repository.
    fs::create_dir_all(repo.join("refs")).unwrap();
    for file in ["HEAD", "config.lock"] {
        fs::write(repo.join(file), "ref: refs/heads/master\n").unwrap();
    }
    let first = lone.commit("one").await;
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok, "{said}");
    assert_eq!(lone.kept("main").await, first);
    // It was moving a branch.
    let lock = fs::File::create(repo.join("refs/heads/main.lock")).unwrap();
    let an_hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    lock.set_modified(an_hour_ago).unwrap();
    let second = lone.commit("two").await;
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok, "{said}");
    assert_eq!(lone.kept("main").await, second);
}

#[tokio::test]
async fn a_branch_that_was_moved_meanwhile_is_not_pushed_over() {
    let lone = Lone::new().await;
    lone.commit("one").await;
    assert!(lone.push("key", "main:feat").await.0);
    for branch in ["theirs", "ours"] {
        lone.git("key", &["checkout", "-q", "-b", branch, "main"]).await;
        lone.commit(branch).await;
    }
    // Another push, after this one has heard where the branch is.
    lone.meanwhile(&format!("exec git push --no-verify {URL} theirs:feat"));
    let (ok, said) = lone.push("key", "ours:feat").await;
    assert!(!ok && said.contains("Another push moved refs/heads/feat meanwhile"), "{said}");
    let theirs = lone.git("key", &["rev-parse", "theirs"]).await.1;
    assert_eq!(lone.kept("feat").await, theirs.trim());
}

#[tokio::test]
async fn what_git_could_not_move_is_refused_before_the_receiver_runs() {
    let lone = Lone::new().await;
    lone.commit("one").await;
    assert!(lone.push("key", "main:first").await.0);
    // It is no ref, and in the way of one.
    let fix = lone.path("repos/anything.git/refs/heads/fix");
    fs::create_dir(&fix).unwrap();
    fs::write(fix.join(".DS_Store"), "").unwrap();
    for name in ["fix", &"a".repeat(245)] {
        let refspec = format!("main:refs/heads/{name}");
        let (ok, said) = lone.git("key", &["push", URL, "main", &refspec]).await;
        assert!(!ok && said.contains("Nothing was changed"), "{said}");
    }
    assert!(!lone.path("runs").exists(), "the receiver is not asked");
    let (ok, said) = lone.git("key", &["push", URL, "main", "main:a/b", ":first"]).await;
    assert!(ok, "{said}");
}

#[tokio::test]
async fn a_branch_is_moved_once_and_a_name_for_it_goes_alone() {
    let lone = Lone::new().await;
    lone.commit("one").await;
    assert!(lone.push("key", "main:first").await.0);
    let repo = format!("--git-dir={}", lone.path("repos/anything.git").display());
    for alias in ["master", "alias"] {
        let alias = format!("refs/heads/{alias}");
        let set = [repo.as_str(), "symbolic-ref", &alias, "refs/heads/main"];
        assert!(lone.git("key", &set).await.0);
    }
    let (ok, said) = lone.git("key", &["push", URL, "main", "main:master"]).await;
    assert!(!ok && said.contains("are one branch here"), "{said}");
    let (ok, said) = lone.push("key", "main:alias").await;
    assert!(!ok && said.contains("alias is another name of main here"), "{said}");
    assert!(!lone.path("runs").exists(), "the receiver is not asked");
    let second = lone.commit("two").await;
    let (ok, said) = lone.push("key", "main:master").await;
    assert!(ok && said.contains("anything at"), "{said}");
    let (ok, said) = lone.push("key", ":alias").await;
    assert!(ok, "{said}");
    for branch in ["main", "master"] {
        assert_eq!(lone.kept(branch).await, second);
    }
}

#[tokio::test]
async fn a_shallow_clone_is_told_so_whatever_the_settings_are() {
    let lone = Lone::new().await;
    lone.commit("one").await;
    assert!(lone.push("key", "main").await.0);
    let repo = format!("--git-dir={}", lone.path("repos/anything.git").display());
    let set = [repo.as_str(), "config", "receive.denyNonFastForwards", "true"];
    assert!(lone.git("key", &set).await.0);
    lone.git("key", &["checkout", "-q", "--orphan", "other"]).await;
    lone.commit("two").await;
    let known = lone.commit("three").await;
    // As in a clone of depth 1.
    fs::write(lone.path("work/.git/shallow"), format!("{known}\n")).unwrap();
    lone.commit("four").await;
    let (ok, said) = lone.push("key", "+other:main").await;
    assert!(!ok && said.contains("shallow"), "{said}");
}

#[tokio::test]
async fn what_the_settings_of_a_repository_forbid_is_refused_before_the_receiver_runs() {
    let lone = Lone::new().await;
    let first = lone.commit("one").await;
    assert!(lone.git("key", &["push", URL, "main", "main:feat"]).await.0);
    fs::remove_file(lone.path("runs")).unwrap();
    let repo = format!("--git-dir={}", lone.path("repos/anything.git").display());
    for rule in ["denyDeletes", "denyNonFastForwards"] {
        let set = [&repo, "config", &format!("receive.{rule}"), "true"];
        assert!(lone.git("key", &set).await.0);
    }
    let (ok, said) = lone.push("key", ":feat").await;
    assert!(!ok && said.contains("deletion prohibited"), "{said}");
    lone.git("key", &["checkout", "-q", "--orphan", "other"]).await;
    lone.commit("two").await;
    for branch in ["main", "feat"] {
        let (ok, said) = lone.push("key", &format!("+other:{branch}")).await;
        assert!(!ok && said.contains("non-fast-forward"), "{said}");
        assert_eq!(lone.kept(branch).await, first);
    }
    assert!(!lone.path("runs").exists(), "the receiver is not asked");
    lone.git("key", &["checkout", "-q", "main"]).await;
    let third = lone.commit("three").await;
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok && lone.kept("main").await == third, "{said}");
}

#[tokio::test]
async fn a_repository_whose_ids_are_of_sha256_is_deployed() {
    let lone = Lone::new().await;
    fs::remove_dir_all(lone.path("work/.git")).unwrap();
    let format = "--object-format=sha256";
    assert!(lone.git("key", &["init", "-q", "-b", "main", format]).await.0);
    let repo = lone.path("repos/anything.git").display().to_string();
    assert!(lone.git("key", &["init", "-q", "--bare", format, &repo]).await.0);
    // Attributes that are pushed change nothing of what is deployed.
    fs::write(lone.path("work/.gitattributes"), "one export-ignore\n").unwrap();
    let commit = lone.commit("one").await;
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok && said.contains(&format!("anything at {commit}")), "{said}");
    assert_eq!(fs::read_to_string(lone.path("tree/one")).unwrap(), "one");
    assert_eq!(lone.kept("main").await, commit);
}

#[tokio::test]
async fn a_folder_whose_lock_was_removed_is_locked_again_or_not_used() {
    let lone = Lone::new().await;
    let lock = lone.path("repos/.lock");
    lone.commit("one").await;
    fs::remove_file(&lock).unwrap();
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok, "{said}");
    let file = fs::File::open(&lock).unwrap();
    assert!(file.try_lock().is_err(), "it is not locked again");
    // Another takes it before the next push.
    fs::remove_file(&lock).unwrap();
    let other = fs::File::create(&lock).unwrap();
    other.try_lock().unwrap();
    lone.commit("two").await;
    let (ok, said) = lone.push("key", "main").await;
    assert!(!ok && said.contains("Another gitreceived uses the folder"), "{said}");
    drop(other);
    assert!(lone.push("key", "main").await.0);
}
