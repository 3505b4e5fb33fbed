//! Refs of an operator's own repository that are not plain, and repositories that are not where they seem.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{chown, symlink},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use testkit::wait_until;
use tokio::{process::Command, time::timeout};

use crate::lone::{Lone, URL, script};

/// One with a commit on its main, which was deployed, and the commit.
async fn deployed() -> (Lone, String) {
    let lone = Lone::new().await;
    let commit = lone.commit("one").await;
    let (ok, said) = lone.push("key", "main").await;
    assert!(ok, "{said}");
    fs::remove_file(lone.path("runs")).unwrap();
    (lone, commit)
}

/// Runs git in the repository that is pushed to.
async fn there(lone: &Lone, args: &[&str]) {
    let repo = format!("--git-dir={}", lone.path("repos/anything.git").display());
    let (ok, said) = lone.git("key", &[&[&*repo], args].concat()).await;
    assert!(ok, "{said}");
}

#[tokio::test]
async fn a_name_does_not_go_in_the_push_that_moves_what_it_stands_for() {
    let (lone, first) = deployed().await;
    let second = lone.commit("two").await;
    for name in ["refs/heads/dev", "refs/tags/now"] {
        there(&lone, &["symbolic-ref", name, "refs/heads/main"]).await;
        let gone = format!(":{name}");
        let (ok, said) = lone.git("key", &["push", URL, &gone, "main"]).await;
        assert!(!ok && said.contains("stands for main here"), "{said}");
        assert!(said.contains("push them one after the other"), "{said}");
        assert!(!lone.path("runs").exists(), "the receiver is not asked");
        assert_eq!(lone.kept("main").await, first);
        let (ok, said) = lone.push("key", &gone).await;
        assert!(ok, "{said}");
    }
    assert!(lone.push("key", "main").await.0);
    assert_eq!(lone.kept("main").await, second);
}

#[tokio::test]
async fn a_branch_that_main_stands_for_is_deployed_and_no_tag_moves_a_branch() {
    let lone = Lone::new().await;
    let first = lone.commit("one").await;
    assert!(lone.push("key", "main:other").await.0);
    there(&lone, &["symbolic-ref", "refs/heads/main", "refs/heads/trunk"]).await;
    // Before it is there, and then.
    let (ok, said) = lone.push("key", "main:trunk").await;
    assert!(ok && said.contains(&format!("anything at {first}")), "{said}");
    let second = lone.commit("two").await;
    let (ok, said) = lone.push("key", "main:trunk").await;
    assert!(ok && said.contains(&format!("anything at {second}")), "{said}");
    assert_eq!(lone.kept("main").await, second);
    there(&lone, &["symbolic-ref", "refs/tags/now", "refs/heads/main"]).await;
    fs::remove_file(lone.path("runs")).unwrap();
    lone.commit("three").await;
    let (ok, said) = lone.push("key", "+main:refs/tags/now").await;
    assert!(!ok && said.contains("The tag now stands for the branch trunk here"), "{said}");
    assert_eq!(lone.kept("trunk").await, second);
    assert!(!lone.path("runs").exists(), "the receiver is not asked");
}

#[tokio::test]
async fn what_main_stands_for_by_several_steps_is_neither_moved_nor_cut_off() {
    let lone = Lone::new().await;
    let first = lone.commit("one").await;
    assert!(lone.push("key", "main:other").await.0);
    for (name, of) in [("heads/main", "heads/mid"), ("heads/mid", "tags/v1")] {
        there(&lone, &["symbolic-ref", &format!("refs/{name}"), &format!("refs/{of}")]).await;
    }
    // Before they are there, and then.
    for next in ["two", "three"] {
        let (ok, said) = lone.push("key", "+main:refs/tags/v1").await;
        assert!(!ok && said.contains("v1 would move main here"), "{said}");
        assert!(!lone.path("runs").exists(), "the receiver is not asked");
        let (ok, said) = lone.push("key", "main").await;
        assert!(ok && said.contains("anything at"), "{said}");
        fs::remove_file(lone.path("runs")).unwrap();
        lone.commit(next).await;
    }
    for name in ["refs/heads/mid", "refs/tags/v1"] {
        let (ok, said) = lone.push("key", &format!(":{name}")).await;
        assert!(!ok && said.contains("cannot be deleted, for main stands for it"), "{said}");
    }
    assert_ne!(lone.kept("main").await, "");
    assert_eq!(lone.kept("other").await, first);
}

#[tokio::test]
async fn a_ref_that_leads_back_to_itself_is_named_with_who_must_mend_it() {
    let (lone, _) = deployed().await;
    lone.commit("two").await;
    for (name, of) in [("x", "y"), ("y", "x")] {
        there(&lone, &["symbolic-ref", &format!("refs/heads/{name}"), &format!("refs/heads/{of}")])
            .await;
    }
    let damaged = async |what: &str, name: &str| {
        let (ok, said) = lone.push("key", what).await;
        assert!(!ok && said.contains(&format!("{name} is damaged here")), "{said}");
        assert!(said.contains("whoever runs this server must mend"), "{said}");
    };
    damaged("main:x", "refs/heads/x").await;
    // It is in nobody's way.
    assert!(lone.push("key", "main").await.0);
    lone.commit("three").await;
    let repo = lone.path("repos/anything.git");
    fs::write(repo.join("HEAD"), "ref: refs/heads/h\n").unwrap();
    fs::write(repo.join("refs/heads/h"), "ref: HEAD\n").unwrap();
    damaged("main", "HEAD").await;
}

#[tokio::test]
async fn a_repository_behind_a_link_takes_pushes() {
    let lone = Lone::new().await;
    let commit = lone.commit("one").await;
    for real in ["real.git", "folder/old.git"] {
        let real = lone.path(real).display().to_string();
        assert!(lone.git("key", &["init", "-q", "--bare", &real]).await.0);
    }
    symlink(lone.path("real.git"), lone.path("repos/link.git")).unwrap();
    symlink(lone.path("folder"), lone.path("repos/folder")).unwrap();
    for name in ["link", "folder/old", "folder/new"] {
        let url = format!("ssh://git@127.0.0.1/{name}.git");
        let (ok, said) = lone.git("key", &["push", &url, "main", "main:other"]).await;
        assert!(ok && said.contains(&format!("{name} at {commit}")), "{said}");
    }
    fs::create_dir(lone.path("a:b")).unwrap();
    symlink(lone.path("a:b"), lone.path("repos/colon")).unwrap();
    let (ok, said) = lone.git("key", &["push", "ssh://git@127.0.0.1/colon/x.git", "main"]).await;
    assert!(!ok && said.contains("a:b/x.git has a colon"), "{said}");
}

#[tokio::test]
async fn a_folder_in_which_git_can_take_no_push_is_told_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.path().join("hostkey"));
    assert!(keygen.status().await.unwrap().success());
    for name in [&b"a:b"[..], b"a\"b", b"a\nb", b"a\xffb"] {
        let mut server = Command::new(env!("CARGO_BIN_EXE_gitreceived"));
        server
            .args(["-p", "0", "-k", "hostkey", "true", "true", "-r"])
            .arg(OsStr::from_bytes(name));
        server.current_dir(&dir).env_clear().kill_on_drop(true);
        let output = timeout(Duration::from_secs(30), server.output()).await;
        let output = output.expect("it takes the folder").unwrap();
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!output.status.success() && said.contains("choose another (-r)"), "{said}");
    }
}

#[tokio::test]
async fn a_git_that_fails_is_not_taken_for_a_commit_that_is_none() {
    let lone = Lone::with(|server| {
        let bin = server.as_std().get_current_dir().unwrap().join("bin");
        fs::create_dir(&bin).unwrap();
        let failing =
            "#!/bin/sh\n[ \"$1\" != cat-file ] || { echo broken >&2; exit 9; }\nPATH=${PATH#*:} exec git \"$@\"\n";
        script(&bin.join("git"), failing);
        server.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()));
    })
    .await;
    lone.commit("one").await;
    let (ok, said) = lone.push("key", "main").await;
    assert!(!ok && said.contains("broken") && !said.contains("is no commit"), "{said}");
}

#[tokio::test]
async fn a_name_that_is_not_text_is_refused_by_its_name() {
    let (lone, _) = deployed().await;
    lone.commit("two").await;
    let mut push = lone.git_command("key", &["push", URL, "main"]);
    let output = push.arg(OsStr::from_bytes(b"main:refs/heads/\xff")).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains(r"The name refs/heads/\xff is not UTF-8") && said.contains("rename it"),
        "{said}"
    );
    assert!(!lone.path("runs").exists(), "the receiver is not asked");
}

#[tokio::test]
async fn what_git_hides_is_refused_before_the_receiver_runs() {
    let (lone, first) = deployed().await;
    there(&lone, &["config", "receive.hideRefs", "refs/heads/h"]).await;
    lone.commit("two").await;
    let (ok, said) = lone.git("key", &["push", URL, "main", "main:h/x"]).await;
    assert!(!ok && said.contains("'refs/heads/h/x': it is hidden here"), "{said}");
    assert!(!said.contains("is kept") && !lone.path("runs").exists(), "{said}");
    assert_eq!(lone.kept("main").await, first);
}

#[tokio::test]
async fn a_first_push_that_is_refused_leaves_no_repository() {
    let lone = Lone::new().await;
    let format = ["init", "-q", "-b", "main", "--object-format=sha256"];
    fs::remove_dir_all(lone.path("work/.git")).unwrap();
    assert!(lone.git("key", &format).await.0);
    lone.commit("one").await;
    let (ok, said) = lone.push("key", "main").await;
    assert!(!ok && said.contains("hash algorithm"), "{said}");
    let repo = lone.path("repos/anything.git");
    wait_until("it is gone", async || (!repo.exists()).then_some(()).ok_or("it is there")).await;
    fs::remove_dir_all(lone.path("work/.git")).unwrap();
    assert!(lone.git("key", &format[..4]).await.0);
    lone.commit("refused").await;
    assert!(!lone.push("key", "main").await.0);
    wait_until("it is gone", async || (!repo.exists()).then_some(()).ok_or("it is there")).await;
    // An operator's own stays.
    assert!(lone.git("key", &["init", "-q", "--bare", repo.to_str().unwrap()]).await.0);
    assert!(!lone.push("key", "main").await.0);
    assert!(lone.push("key", "main:refs/tags/v1").await.0 && repo.exists());
}

#[tokio::test]
async fn a_repository_that_git_cannot_read_is_told_with_who_must_mend_it() {
    let (lone, _) = deployed().await;
    lone.commit("two").await;
    fs::write(lone.path("repos/anything.git/config"), "[core\n").unwrap();
    let (ok, said) = lone.push("key", "main").await;
    assert!(!ok && said.contains("bad config line"), "{said}");
    assert!(said.contains("tell the person who runs this server"), "{said}");
}

#[tokio::test]
async fn a_tag_of_a_tree_is_kept_and_no_way_to_deploy_it_is_told() {
    let (lone, _) = deployed().await;
    for (what, is_commit) in [("main^{tree}:refs/tags/tree", false), ("main:refs/tags/v1", true)] {
        let (ok, said) = lone.push("key", what).await;
        assert!(ok && said.contains("To deploy it") == is_commit, "{said}");
    }
}

#[tokio::test]
async fn a_branch_that_somebody_rebases_is_not_pushed_under_them() {
    let (lone, first) = deployed().await;
    lone.commit("two").await;
    assert!(lone.push("key", "main:feat").await.0);
    let tree = lone.path("their-tree").display().to_string();
    there(&lone, &["worktree", "add", "-q", &tree, "feat"]).await;
    let mut rebase = lone.git_command("key", &["-C", &tree, "rebase", "-q", "-i", "HEAD~1"]);
    rebase.env("GIT_SEQUENCE_EDITOR", "sed -i 1s/pick/edit/");
    assert!(rebase.status().await.unwrap().success());
    let (ok, said) = lone.push("key", &format!("+{first}:refs/heads/feat")).await;
    assert!(!ok && said.contains("'refs/heads/feat': branch is currently checked out"), "{said}");
    let done = lone.git("key", &["-C", &tree, "rebase", "--abort"]).await;
    assert!(done.0, "{}", done.1);
}

#[tokio::test]
async fn a_repository_of_another_user_is_told_from_one_that_takes_pushes() {
    let (lone, _) = deployed().await;
    lone.commit("two").await;
    // Only root can give a folder away.
    if chown(lone.path("repos/anything.git"), Some(12345), None).is_err() {
        return;
    }
    let (ok, said) = lone.push("key", "main").await;
    assert!(!ok && said.contains("belongs to user 12345 and must belong to user"), "{said}");
    assert!(!said.contains("safe.directory"), "{said}");
}

/// Every file and folder below one, and what the files hold.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path.clone());
            }
            let text = fs::read(&path).unwrap_or_default();
            found.insert(path, text);
        }
    }
    found
}

#[tokio::test]
async fn what_is_no_bare_repository_stays_as_it_is_and_it_is_said_what_to_do() {
    let lone = Lone::new().await;
    lone.commit("one").await;
    let repos = lone.path("repos");
    let tree = lone.path("tree-of-somebody");
    assert!(lone.git("key", &["clone", "-q", ".", tree.to_str().unwrap()]).await.0);
    fs::create_dir(repos.join("stuff.git")).unwrap();
    for file in ["HEAD", "config", "a.lock"] {
        fs::write(repos.join("stuff.git").join(file), "precious").unwrap();
    }
    fs::create_dir(repos.join("pointer.git")).unwrap();
    let pointer = format!("gitdir: {}/.git\n", tree.display());
    fs::write(repos.join("pointer.git/.git"), &pointer).unwrap();
    fs::write(repos.join("file.git"), &pointer).unwrap();
    for (to, name) in
        [("../tree-of-somebody", "tree.git"), ("nowhere", "lost.git"), ("loop.git", "loop.git")]
    {
        symlink(to, repos.join(name)).unwrap();
    }
    let before = (contents(&repos), contents(&tree));
    for (name, why) in [
        ("tree", "is a work tree: it has a .git"),
        ("pointer", "is a work tree: it has a .git"),
        ("stuff", "is neither empty nor a bare repository"),
        ("file", "is a file that names a repository elsewhere"),
        ("lost", "nowhere, and there is nothing. Remove the link"),
        ("loop", "is a link that leads back to itself"),
    ] {
        let url = format!("ssh://git@127.0.0.1/{name}.git");
        let (ok, said) = lone.git("key", &["push", "-f", &url, "main"]).await;
        assert!(!ok && said.contains(why) && said.contains("Nothing was changed"), "{said}");
        assert!(!said.contains("push again in a minute"), "{said}");
    }
    assert!(before == (contents(&repos), contents(&tree)), "something was written");
    assert!(!lone.path("runs").exists(), "the receiver is not asked");
    // The repository of a work tree is one.
    symlink(tree.join(".git"), repos.join("inner.git")).unwrap();
    let (ok, said) =
        lone.git("key", &["push", "ssh://git@127.0.0.1/inner.git", "main:other"]).await;
    assert!(ok, "{said}");
}
