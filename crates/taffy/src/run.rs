//! Clone, archive, receive.

use std::{
    ffi::OsStr,
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use api::git::{GitSource, keeps_secrets};
use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    net::TcpStream,
    process::Command,
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use crate::domain::{Remote, branch, is_revision, without};

/// Longest time of one git command.
const GIT_TIMEOUT: Duration = Duration::from_secs(900);
/// Longest wait for the answer of one address of a host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 4;
/// A transfer that is slower than so many bytes a second for so many seconds is given up.
const SLOWEST: [(&str, &str); 2] = [("http.lowSpeedLimit", "100"), ("http.lowSpeedTime", "60")];
/// Longest description on stdin.
const STDIN_LEN_MAX: u64 = 64 << 10;
/// The user a token belongs to where none is named: GitHub, GitLab and others take any.
const TOKEN_USER: &str = "x-access-token";
/// What a URL, or a redirection, may use.
const PROTOCOLS: &str = "https:http:git:ssh";
/// The name git knows a tree without any file by.
const EMPTY_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
/// Hands the token to git, which asks for it on the way to one host only. It is in no argument.
const HELPER: &str = "!f() { test \"$1\" = get && printf 'username=%s\\npassword=%s\\n' \"$TAFFY_GIT_USER\" \"$TAFFY_GIT_TOKEN\"; }; f";
/// What is not passed on to the receiver.
const OURS: [&str; 5] = ["TAFFY_URL", "TAFFY_REF", "TAFFY_USER", "TAFFY_TOKEN", "TAFFY_KEY"];

/// Deploys a git repository by its URL.
#[derive(Clone, Default, Parser)]
#[command(name = "taffy", version, about)]
pub struct Args {
    /// Name of the app.
    pub app: String,
    /// URL of the repository. Arguments are seen by everybody: one with a password belongs into the environment.
    #[arg(env = "TAFFY_URL", hide_env_values = true)]
    pub repo: Option<String>,
    /// Branch, tag or commit to deploy; the repository's own default branch if none is named.
    #[arg(env = "TAFFY_REF")]
    pub branch: Option<String>,
    /// Commit of the branch to deploy, instead of its head.
    pub rev: Option<String>,
    /// User of the token.
    #[arg(long, env = "TAFFY_USER", hide = true)]
    pub user: Option<String>,
    /// Token or password for an HTTP URL; set it in the environment.
    #[arg(long, env = "TAFFY_TOKEN", hide_env_values = true, hide = true)]
    pub token: Option<String>,
    /// Private SSH key for an SSH URL, PEM; set it in the environment.
    #[arg(long, env = "TAFFY_KEY", hide_env_values = true, hide = true)]
    pub key: Option<String>,
    /// Read what is not an argument from stdin: JSON with `url`, `ref`, `user`, `token`, `key`.
    #[arg(long, env = "TAFFY_STDIN", value_parser = clap::builder::BoolishValueParser::new())]
    pub stdin: bool,
    /// Command that deploys.
    #[arg(long, env = "TAFFY_RECEIVER", default_value = "flynn-receive")]
    pub receiver: String,
}

impl std::fmt::Debug for Args {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Args({})", self.app)
    }
}

/// What is deployed, and how it is got at.
struct Source {
    remote: Remote,
    branch: Option<String>,
    rev: Option<String>,
    user: String,
    token: String,
    key: String,
}

/// Deploys; whether the receiver took it.
pub async fn run(args: Args) -> anyhow::Result<bool> {
    let said = if args.stdin { said(&mut std::io::stdin().lock())? } else { GitSource::default() };
    let source = source(&args, said)?;
    let dir = tempfile::tempdir().context("making a temporary directory")?;
    let prepared = tokio::select! {
        prepared = prepare(&source, dir.path()) => prepared,
        () = told_to_stop() => bail!("stopped; nothing was changed"),
    };
    let commit = prepared.map_err(|err| {
        // git may repeat what it was given.
        anyhow::anyhow!(
            "{}",
            without(&format!("{err:#}"), &source.user, &[&source.token, &source.key])
        )
    })?;
    receive(&args, &commit, dir.path()).await
}

fn said(stdin: &mut impl Read) -> anyhow::Result<GitSource> {
    let mut text = String::new();
    stdin.take(STDIN_LEN_MAX).read_to_string(&mut text).context("reading stdin")?;
    // The error of the reader would show what it read.
    serde_json::from_str(&text)
        .ok()
        .context("stdin must be JSON with some of url, ref, user, token, key, each a text")
}

fn source(args: &Args, said: GitSource) -> anyhow::Result<Source> {
    let url = said.url.or_else(|| args.repo.clone());
    let url = url.context("there is no URL: give it in TAFFY_URL, on stdin or as an argument")?;
    let remote = Remote::parse(&url).context(
        "this is not the URL of a repository on the network (https, ssh, git, user@host:path)",
    )?;
    let (branch, rev) = (said.r#ref.or_else(|| args.branch.clone()), args.rev.clone());
    for name in branch.iter().chain(&rev) {
        ensure!(is_revision(name), "{name:?} is not the name of a branch or a commit");
    }
    let user = said.user.or_else(|| args.user.clone()).or_else(|| remote.user.clone());
    let token = said.token.or_else(|| args.token.clone()).or_else(|| remote.token.clone());
    ensure!(
        token.is_none() || keeps_secrets(&remote.url),
        "over http:// everybody on the way could read the token: give the https:// URL"
    );
    let key = said.key.or_else(|| args.key.clone()).unwrap_or_default();
    let user = user.unwrap_or_else(|| TOKEN_USER.into());
    Ok(Source { remote, branch, rev, user, token: token.unwrap_or_default(), key })
}

/// Clones, and makes tree and history of it in `dir`; the commit.
async fn prepare(source: &Source, dir: &Path) -> anyhow::Result<String> {
    if !source.key.is_empty() {
        let mut file = std::fs::OpenOptions::new();
        let mut file = file.write(true).create_new(true).mode(0o600).open(dir.join("key"))?;
        // ssh reads no key without a line end.
        Write::write_all(&mut file, format!("{}\n", source.key.trim()).as_bytes())?;
    }
    let (url, shown, clone) = (&source.remote.url, source.remote.shown(), dir.join("clone.git"));
    // Who reads may have gone away.
    let _ = writeln!(std::io::stdout(), "-----> Cloning {shown}...");
    reach(&source.remote).await?;
    let branch = source.branch.as_deref().and_then(branch);
    let mut cloning = vec!["clone", "--quiet", "--bare"];
    if let Some(branch) = branch {
        cloning.extend(["--single-branch", "--no-tags", "--branch", branch]);
    }
    cloning.extend(["--", url, "clone.git"]);
    git(source, dir, dir, &cloning).await.with_context(|| {
        let branch = branch.map(|branch| format!("the branch {branch} of ")).unwrap_or_default();
        format!("cloning {branch}{shown} failed: is it there, and may it be read?")
    })?;
    // A branch or tag that was cloned is its HEAD.
    let commit = source.branch.as_deref().filter(|_| branch.is_none());
    let rev = source.rev.as_deref().or(commit).unwrap_or("HEAD");
    let wanted = format!("{rev}^{{commit}}");
    let args = ["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted];
    let Ok(commit) = git(source, dir, &clone, &args).await else {
        let refs = git(source, dir, &clone, &["for-each-ref", "--count=1"]).await?;
        match branch {
            None if refs.is_empty() => bail!("{shown} is empty: push to it first"),
            None if rev == "HEAD" => bail!("{shown} has no default branch: name one (--ref)"),
            _ => bail!("{} has no commit {rev}", branch.unwrap_or(&shown)),
        }
    };
    let commit = commit.trim();
    let into = format!("--output={}", dir.join(TREE).display());
    // Every file as it was committed: see gitreceived.
    let args = ["archive", "--worktree-attributes", "--format=tar", &into, commit];
    git(source, dir, &clone, &args).await.context("archiving failed")?;
    pack_history(source, dir, &clone, commit).await.context("packing the history failed")?;
    Ok(commit.to_owned())
}

/// Finds out whether a host answers: git would wait for minutes for one that drops what it is sent.
async fn reach(remote: &Remote) -> anyhow::Result<()> {
    let Some((host, port)) = remote.peer() else { return Ok(()) };
    // Why there is no such host, git says better.
    let Ok(addresses) = tokio::net::lookup_host((host.as_str(), port)).await else { return Ok(()) };
    for address in addresses.take(ADDRESSES_MAX) {
        if timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await.is_ok() {
            return Ok(());
        }
    }
    bail!(
        "{host} does not answer on port {port}: is the URL right, and may this cluster connect to it?"
    )
}

/// The tree, in the temporary directory.
const TREE: &str = "tree.tar";
/// The pack of the history.
const PACK: &str = "history.pack";

/// git in a directory; its output. It never asks a person anything.
async fn git(source: &Source, home: &Path, dir: &Path, args: &[&str]) -> anyhow::Result<String> {
    let mut command = command(source, "git", home, dir);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = timeout(GIT_TIMEOUT, command.output()).await.context("git took too long")??;
    if !output.status.success() {
        match String::from_utf8_lossy(&output.stderr).trim() {
            "" => bail!("git {} ended with {}", args[0], output.status),
            said => bail!("{said}"),
        }
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A program with no key of the cluster in its environment.
fn command(source: &Source, program: impl AsRef<OsStr>, home: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).env_clear().envs(std::env::vars_os().filter(|(name, _)| {
        matches!(name.to_str(), Some("PATH" | "LD_LIBRARY_PATH" | "SSL_CERT_FILE" | "SSL_CERT_DIR"))
    }));
    command.env("HOME", home).env("LC_ALL", "C").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_ALLOW_PROTOCOL", PROTOCOLS);
    command.env("GIT_ATTR_SOURCE", EMPTY_TREE).env("GIT_NO_REPLACE_OBJECTS", "1");
    let mut ssh = format!(
        "ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=20 -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={}",
        home.join("known_hosts").display()
    );
    if !source.key.is_empty() {
        ssh.push_str(&format!(" -o IdentitiesOnly=yes -i {}", home.join("key").display()));
    }
    command.env("GIT_SSH_COMMAND", ssh);
    let mut settings = SLOWEST.map(|(name, value)| (name.to_owned(), value)).to_vec();
    if let Some(origin) = source.remote.origin().filter(|_| !source.token.is_empty()) {
        command.env("TAFFY_GIT_USER", &source.user).env("TAFFY_GIT_TOKEN", &source.token);
        settings.push((format!("credential.{origin}.helper"), HELPER));
    }
    command.env("GIT_CONFIG_COUNT", settings.len().to_string());
    for (at, (name, value)) in settings.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{at}"), name);
        command.env(format!("GIT_CONFIG_VALUE_{at}"), value);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Writes one pack of everything the commit reaches.
async fn pack_history(
    source: &Source,
    home: &Path,
    clone: &Path,
    commit: &str,
) -> anyhow::Result<()> {
    let revisions = clone.join("taffy-revisions");
    tokio::fs::write(&revisions, format!("{commit}\n")).await?;
    let mut command = command(source, "git", home, clone);
    command
        .args(["pack-objects", "--revs", "--stdout", "--quiet", "--delta-base-offset"])
        .stdin(std::fs::File::open(&revisions)?)
        .stdout(std::fs::File::create(home.join(PACK))?)
        .stderr(Stdio::inherit());
    let status = timeout(GIT_TIMEOUT, command.status()).await.context("git took too long")??;
    ensure!(status.success(), "git pack-objects ended with {status}");
    Ok(())
}

/// Runs the receiver; a signal to us is one to it, and then it decides how to end.
async fn receive(args: &Args, commit: &str, dir: &Path) -> anyhow::Result<bool> {
    let mut receiver = Command::new(&args.receiver);
    receiver
        .args([&args.app, commit])
        .env("FLYNN_PACK_FILE", dir.join(PACK))
        .env_remove("FLYNN_PACKS")
        .env_remove("FLYNN_PACKS_OLD")
        .stdin(std::fs::File::open(dir.join(TREE))?)
        .kill_on_drop(true);
    for name in OURS {
        receiver.env_remove(name);
    }
    let mut child = receiver.spawn().with_context(|| format!("{} cannot be run", args.receiver))?;
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?.success()),
            () = told_to_stop() => {}
        }
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// Ends at SIGTERM or SIGINT, which end no process that is the first of its container by themselves.
async fn told_to_stop() {
    let (term, int) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut term), Ok(mut int)) = (term, int) else { return std::future::pending().await };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
