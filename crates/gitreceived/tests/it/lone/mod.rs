//! gitreceived by itself: two shell scripts, a folder, real git over real ssh, and nothing else.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use testkit::{free_port, wait_until};
use tokio::process::{Child, Command};

/// The repository that is pushed to.
pub(crate) const URL: &str = "ssh://git@127.0.0.1/anything.git";
const CHECKER: &str = r#"#!/bin/sh
# $1 is the SSH user, $2 "<type> <base64>".
test "$1" = git && grep -qF "$2" "$(dirname "$0")/key.pub"
"#;
const RECEIVER: &str = r#"#!/bin/sh
# $1 is the repository, $2 the commit; the tree is a tar on stdin.
dir=$(dirname "$0")
mkdir -p $dir/tree && tar -x -C $dir/tree
touch $dir/runs
while [ -e $dir/hold ]; do sleep 0.05; done
echo "$1 at $2 for $RECEIVE_USER with $GREETING, after ${FLYNN_HEAD_OLD:-nothing}"
test ! -e $dir/tree/refused
"#;

pub(crate) struct Lone {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) server: Child,
}

impl Lone {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// One whose server is started in another way.
    pub(crate) async fn with(change: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("checker", CHECKER), ("receiver", RECEIVER)] {
            script(&dir.path().join(name), text);
        }
        for name in ["hostkey", "key", "stranger"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.path().join(name));
            assert!(keygen.status().await.unwrap().success());
        }
        let port = free_port();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        let mut server = command(dir.path(), port, "repos");
        change(&mut server);
        let server = started(server, port).await;
        let lone = Self { dir, port, server };
        fs::create_dir(lone.path("work")).unwrap();
        lone.git("key", &["init", "-q", "-b", "main"]).await;
        lone
    }

    /// Another one beside it, for a folder of its own; and where it listens.
    pub(crate) async fn beside(&self, folder: &str) -> (Child, u16) {
        let port = free_port();
        (started(command(self.dir.path(), port, folder), port).await, port)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn git(&self, key: &str, args: &[&str]) -> (bool, String) {
        let output = self.git_command(key, args).output().await.unwrap();
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    pub(crate) fn git_command(&self, key: &str, args: &[&str]) -> Command {
        let ssh = format!(
            "ssh -F none -p {} -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
            self.port,
            self.path(key).display()
        );
        let mut git = Command::new("git");
        git.args(args).current_dir(self.path("work")).env("GIT_SSH_COMMAND", ssh);
        git.env("HOME", self.dir.path()).env("LC_ALL", "C").stdin(Stdio::null());
        for role in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{role}_NAME"), "me").env(format!("GIT_{role}_EMAIL"), "me@home");
        }
        git
    }

    pub(crate) async fn commit(&self, file: &str) -> String {
        fs::write(self.path("work").join(file), file).unwrap();
        self.git("key", &["add", "."]).await;
        assert!(self.git("key", &["commit", "-q", "-m", file]).await.0);
        self.git("key", &["rev-parse", "HEAD"]).await.1.trim().to_owned()
    }

    pub(crate) async fn push(&self, key: &str, what: &str) -> (bool, String) {
        self.git(key, &["push", URL, what]).await
    }

    pub(crate) async fn kept(&self, name: &str) -> String {
        let repo = self.path("repos/anything.git");
        let repo = format!("--git-dir={}", repo.display());
        let (ok, said) = self.git("key", &[&repo, "rev-parse", "--verify", "-q", name]).await;
        if ok { said.trim().to_owned() } else { String::new() }
    }

    /// Has the pusher's git run something when it has heard where the branches are.
    pub(crate) fn meanwhile(&self, commands: &str) {
        script(&self.path("work/.git/hooks/pre-push"), &format!("#!/bin/sh\n{commands}\n"));
    }

    /// The one directory with the hooks.
    pub(crate) fn run_dir(&self) -> PathBuf {
        fs::read_dir(self.path("tmp")).unwrap().next().unwrap().unwrap().path()
    }
}

fn command(dir: &Path, port: u16, folder: &str) -> Command {
    let mut server = Command::new(env!("CARGO_BIN_EXE_gitreceived"));
    server
        .args(["-p", &port.to_string(), "-k", "hostkey", "-r", folder])
        .args(["--drain-seconds", "3600"])
        .args(["./checker", "./receiver"])
        .current_dir(dir)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("GREETING", "a word of the operator's")
        .env("TMPDIR", dir.join("tmp"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    server
}

async fn started(mut server: Command, port: u16) -> Child {
    let server = server.spawn().unwrap();
    wait_until("it listens", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map(drop)
    })
    .await;
    server
}

/// Writes something that can be executed.
pub(crate) fn script(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
}
