//! What a push deploys is what was committed, or the pusher is told; and what no server could bear is refused.
#![expect(clippy::unwrap_used, reason = "helpers of tests too")]
#![expect(dead_code, reason = "the world of the other tests")]

mod world;

use std::{fs, process::Stdio};

use tokio::{io::AsyncWriteExt, process::Command};
use world::World;

/// Runs git with something on its stdin; its output.
async fn git_with(world: &World, args: &[&str], stdin: &[u8]) -> String {
    let mut git = world.git_command("me", "app", args);
    let mut child = git.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn attributes_change_nothing_of_what_is_deployed() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let attributes = "*.secret export-ignore\nversion export-subst\n*.txt text eol=crlf\n";
    fs::write(world.path("app/a.secret"), "kept").unwrap();
    fs::write(world.path("app/version"), "$Format:%H$").unwrap();
    world.commit("app", ".gitattributes", attributes.as_bytes()).await;
    let (ok, said) = world.push("app").await;
    assert!(ok, "{said}");
    for (file, content) in
        [("a.secret", "kept"), ("version", "$Format:%H$"), ("hello.txt", "hello")]
    {
        assert_eq!(fs::read_to_string(world.path("tree").join(file)).unwrap(), content, "{file}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_git_with_much_to_complain_about_does_not_stop_a_push() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let attributes: String = (0..3000).map(|n| format!("!name-{n} text\n")).collect();
    world.commit("app", ".gitattributes", attributes.as_bytes()).await;
    let (ok, said) = world.push("app").await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    world.end().await;
}

#[tokio::test]
async fn submodules_and_lfs_pointers_are_named() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let commit = world.git("app", &["rev-parse", "HEAD"]).await;
    let module = format!("160000,{},vendor/lib", commit.trim());
    world.git("app", &["update-index", "--add", "--cacheinfo", &module]).await;
    let pointer = format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{:064}\nsize 104857600\n",
        7
    );
    fs::create_dir(world.path("app/vendor")).unwrap();
    fs::create_dir(world.path("app/vendor/lib")).unwrap();
    world.commit("app", "model.bin", pointer.as_bytes()).await;
    let (ok, said) = world.push("app").await;
    assert!(ok, "{said}");
    assert!(said.contains("Submodules are not fetched: vendor/lib will be empty"), "{said}");
    assert!(said.contains("Git LFS is not served here: model.bin will be a pointer"), "{said}");
    let ssh = format!("{} git@127.0.0.1 git-lfs-authenticate my-app.git upload", world.ssh("me"));
    let mut asking = Command::new("sh");
    let output = asking.args(["-c", &ssh]).stdin(Stdio::null()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("does not take Git LFS"), "{said}");
    world.end().await;
}

#[tokio::test]
async fn a_few_objects_that_name_millions_of_files_are_refused() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let blob = git_with(&world, &["hash-object", "-w", "--stdin"], b"x").await;
    let ten = |line: &str| (0..10).map(|n| format!("{line}\t{n}\n")).collect::<String>();
    let files = ten(&format!("100644 blob {blob}"));
    let mut tree = git_with(&world, &["mktree"], files.as_bytes()).await;
    for _ in 0..8 {
        let trees = ten(&format!("040000 tree {tree}"));
        tree = git_with(&world, &["mktree"], trees.as_bytes()).await;
    }
    let bomb = world.git("app", &["commit-tree", "-p", "HEAD", "-m", "bomb", &tree]).await;
    let wish = format!("{}:refs/heads/master", bomb.trim());
    let (ok, said) = world.git_as("me", "app", &["push", "flynn", &wish]).await;
    assert!(!ok && said.contains("more than 500000 files and folders"), "{said}");
    assert_eq!(world.head(), None);
    world.end().await;
}

#[tokio::test]
async fn an_old_history_with_harmless_flaws_is_taken() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let tree = world.git("app", &["rev-parse", "HEAD^{tree}"]).await;
    let mut parent = String::new();
    for who in ["Old<old@example.com> 1300000000 +0000", "Old <old@exam<ple.com> 013 +0000"] {
        let text = format!("tree {tree}{parent}author {who}\ncommitter {who}\n\nlong ago\n");
        let args = ["hash-object", "-t", "commit", "-w", "--literally", "--stdin"];
        parent = format!("parent {}\n", git_with(&world, &args, text.as_bytes()).await);
    }
    let parent = parent.trim().replace("parent ", "");
    let new = world.git("app", &["commit-tree", "-p", &parent, "-m", "today", tree.trim()]).await;
    let wish = format!("{}:refs/heads/master", new.trim());
    let (ok, said) = world.git_as("me", "app", &["push", "flynn", &wish]).await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    world.end().await;
}

#[tokio::test]
async fn an_agent_with_many_keys_gets_in_with_its_last() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let mut ssh = world.ssh("stranger-0");
    for n in 0..14 {
        world.user(&format!("stranger-{n}")).await;
        ssh = format!("{ssh} -i {}", world.path(&format!("stranger-{n}")).display());
    }
    let ssh = format!("{ssh} -i {}", world.path("me").display());
    let mut git = world.git_command("me", "app", &["push", "flynn", "master"]);
    let output = git.env("GIT_SSH_COMMAND", ssh).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    world.end().await;
}
