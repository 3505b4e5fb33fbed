//! Clone, archive, receive.

use std::{ffi::OsStr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use crate::domain::{is_remote, is_revision};

/// Longest time of one git command.
const GIT_TIMEOUT: Duration = Duration::from_secs(900);

/// Deploys a git repository by its URL.
#[derive(Debug, Clone, Parser)]
#[command(name = "taffy", version, about)]
pub struct Args {
    /// Name of the app.
    pub app: String,
    /// URL of the repository.
    pub repo: String,
    /// Branch to clone.
    pub branch: String,
    /// Commit to deploy.
    pub rev: String,
    /// Command that deploys.
    #[arg(long, env = "TAFFY_RECEIVER", default_value = "flynn-receive")]
    pub receiver: String,
}

/// Deploys; whether the receiver took it.
pub async fn run(args: Args) -> anyhow::Result<bool> {
    ensure!(is_remote(&args.repo), "{:?} is not the URL of a repository on the network", args.repo);
    for name in [&args.branch, &args.rev] {
        ensure!(is_revision(name), "{name:?} is not the name of a branch or a commit");
    }
    let dir = tempfile::tempdir().context("making a temporary directory")?;
    let clone = dir.path().join("clone.git");
    let branch = ["clone", "--quiet", "--bare", "--single-branch", "--no-tags", "--branch"];
    let cloning = [&branch[..], &[&args.branch, "--", &args.repo, "clone.git"]].concat();
    git(dir.path(), &cloning).await.with_context(|| {
        format!(
            "cloning the branch {} of {} failed: is it there, and public?",
            args.branch, args.repo
        )
    })?;
    let wanted = format!("{}^{{commit}}", args.rev);
    let commit = git(&clone, &["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted])
        .await
        .with_context(|| format!("the branch {} has no commit {}", args.branch, args.rev))?;
    let commit = commit.trim();
    let (tar, pack) = (dir.path().join("tree.tar"), dir.path().join("history.pack"));
    let into = format!("--output={}", tar.display());
    git(&clone, &["archive", "--format=tar", &into, commit]).await.context("archiving failed")?;
    pack_history(&clone, commit, &pack).await.context("packing the history failed")?;
    receive(&args, commit, &tar, &pack).await
}

/// git in a directory; its output. It never asks a person anything.
async fn git(dir: &Path, args: &[&str]) -> anyhow::Result<String> {
    let mut command = command("git", dir);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = timeout(GIT_TIMEOUT, command.output()).await.context("git took too long")??;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn command(program: impl AsRef<OsStr>, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).env("GIT_TERMINAL_PROMPT", "0").env("GIT_ALLOW_PROTOCOL", PROTOCOLS);
    command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// What a URL, or a redirection, may use.
const PROTOCOLS: &str = "https:http:git:ssh";

/// Writes one pack of everything the commit reaches.
async fn pack_history(clone: &Path, commit: &str, pack: &Path) -> anyhow::Result<()> {
    let revisions = clone.join("taffy-revisions");
    tokio::fs::write(&revisions, format!("{commit}\n")).await?;
    let mut command = command("git", clone);
    command
        .args(["pack-objects", "--revs", "--stdout", "--quiet", "--delta-base-offset"])
        .stdin(std::fs::File::open(&revisions)?)
        .stdout(std::fs::File::create(pack)?)
        .stderr(Stdio::inherit());
    let status = timeout(GIT_TIMEOUT, command.status()).await.context("git took too long")??;
    ensure!(status.success(), "git pack-objects ended with {status}");
    Ok(())
}

/// Runs the receiver; a signal to us is one to it, and then it decides how to end.
async fn receive(args: &Args, commit: &str, tar: &Path, pack: &Path) -> anyhow::Result<bool> {
    let mut receiver = Command::new(&args.receiver);
    receiver
        .args([&args.app, commit])
        .env("FLYNN_PACK_FILE", pack)
        .env_remove("FLYNN_PACKS")
        .stdin(std::fs::File::open(tar)?)
        .kill_on_drop(true);
    let mut child = receiver.spawn().with_context(|| format!("{} cannot be run", args.receiver))?;
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?.success()),
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}
