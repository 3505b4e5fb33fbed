//! What a push deploys is what was committed, or the pusher is told; and what no server could bear is refused.

use std::{fs, process::Stdio};

use tokio::{io::AsyncWriteExt, process::Command};

use crate::world::World;

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
async fn a_commit_without_any_file_is_the_receivers_to_judge() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let empty = git_with(&world, &["mktree"], b"").await;
    let commit = world.git("app", &["commit-tree", "-m", "nothing", &empty]).await;
    let wish = format!("{}:refs/heads/master", commit.trim());
    let (ok, said) = world.git_as("me", "app", &["push", "flynn", &wish]).await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    assert_eq!(world.head().as_deref(), Some(commit.trim()));
    assert_eq!(fs::read_dir(world.path("tree")).unwrap().count(), 0);
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

/// As the objects of a pack are packed, but for the packing.
fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let (mut a, mut b) = (1_u32, 0_u32);
    let last = bytes.chunks(0xffff).count() - 1;
    for (n, chunk) in bytes.chunks(0xffff).enumerate() {
        let len = u16::try_from(chunk.len()).unwrap();
        out.push(u8::from(n == last));
        out.extend([len.to_le_bytes(), (!len).to_le_bytes()].concat());
        out.extend(chunk);
        for byte in chunk {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
    }
    out.extend((b << 16 | a).to_be_bytes());
    out
}

/// A number in as many bytes as it needs, seven bits each, the lowest first.
fn varint(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 0x7f {
        bytes.push(u8::try_from(n & 0x7f).unwrap() | 0x80);
        n >>= 7;
    }
    bytes.push(u8::try_from(n).unwrap());
    bytes
}

/// The head of an object in a pack: type and length.
fn head(kind: u8, len: usize) -> Vec<u8> {
    let first = kind << 4 | u8::try_from(len & 0xf).unwrap();
    match len >> 4 {
        0 => vec![first],
        rest => [vec![first | 0x80], varint(rest)].concat(),
    }
}

/// A pack of 80 KB with an object of 1 GiB: a delta that copies its base of 64 KiB again and again.
async fn delta_bomb() -> Vec<u8> {
    const BASE: usize = 0x10000;
    const COPIES: usize = 1 << 14;
    let base = [head(3, BASE), deflated(&vec![0; BASE])].concat();
    let delta = [varint(BASE), varint(BASE * COPIES), vec![0x80; COPIES]].concat();
    let distance = base.len();
    // Every byte of an offset but the last counts one more than it says.
    let offset = [
        u8::try_from((((distance >> 7) - 1) >> 7) - 1).unwrap() | 0x80,
        u8::try_from(((distance >> 7) - 1) & 0x7f).unwrap() | 0x80,
        u8::try_from(distance & 0x7f).unwrap(),
    ];
    let bomb = [head(6, delta.len()), offset.to_vec(), deflated(&delta)].concat();
    let mut pack = [&b"PACK\0\0\0\x02\0\0\0\x02"[..], &base, &bomb].concat();
    let mut sum = Command::new("sha1sum");
    let mut sum = sum.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    sum.stdin.take().unwrap().write_all(&pack).await.unwrap();
    let said = sum.wait_with_output().await.unwrap().stdout;
    pack.extend(hex::decode(&said[..40]).unwrap());
    pack
}

#[tokio::test]
async fn an_object_that_grows_beyond_all_memory_ends_its_own_push_and_no_other() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let mut ssh = Command::new("sh");
    let command =
        format!("exec {} git@127.0.0.1 \"git-receive-pack '/my-app.git'\"", world.ssh("me"));
    ssh.args(["-c", &command]).stdin(Stdio::piped()).kill_on_drop(true);
    let mut ssh = ssh.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (old, new) = ("0".repeat(40), "1".repeat(40));
    let wish = format!("{old} {new} refs/heads/master\0report-status");
    let wish = format!("{:04x}{wish}0000", wish.len() + 4);
    let mut stdin = ssh.stdin.take().unwrap();
    stdin.write_all(&[wish.as_bytes(), &delta_bomb().await].concat()).await.unwrap();
    let (bomb, (ok, other)) = tokio::join!(ssh.wait_with_output(), world.push("app"));
    let bomb = bomb.unwrap();
    let said = String::from_utf8_lossy(&[bomb.stdout, bomb.stderr].concat()).into_owned();
    assert!(said.contains("Out of memory"), "{said}");
    assert!(said.contains("ng refs/heads/master unpacker error"), "{said}");
    assert!(ok && other.contains("Application deployed"), "{other}");
    drop(stdin);
    // Nor does it leave anything that the next has to do with.
    world.commit("app", "two", b"2").await;
    let (ok, said) = world.push("app").await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    world.end().await;
}
