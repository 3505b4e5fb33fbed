//! Running git, with nothing of our own environment.

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

/// Longest time of one git command on a local repository, but for those that follow a push.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Most characters of git's reason that a pusher is told.
const REASON_LEN_MAX: usize = 300;
/// Most of git's complaints that is kept.
pub(crate) const STDERR_LEN_MAX: usize = 2000;
/// Most output one git may have; only lists of refs and objects come this way.
const STDOUT_LEN_MAX: usize = 16 << 20;
/// Memory one git process may have of its own (what it maps of packs is not counted). One that is made to want more
/// fails alone, before the kernel has to choose among all pushes of this server.
const GIT_MEMORY: u64 = 512 << 20;
/// The names git knows a tree without any file by: that of SHA-1, and of SHA-256.
const EMPTY_TREES: [&str; 2] = [
    "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
];

/// Problems of old repositories that are in many histories and harm nobody: all are in who wrote a commit, and when.
const TOLERATED: [&str; 12] = [
    "zeroPaddedFilemode",
    "zeroPaddedDate",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "missingNameBeforeEmail",
    "missingEmail",
    "badEmail",
    "badName",
    "badDate",
    "badTimezone",
    "badDateOverflow",
    "multipleAuthors",
];

/// Settings every git of ours has, so that no file or history makes it take memory by the gigabyte.
const SETTINGS: [(&str, &str); 6] = [
    ("core.bigFileThreshold", "32m"),
    ("core.deltaBaseCacheLimit", "32m"),
    ("pack.windowMemory", "64m"),
    ("pack.deltaCacheSize", "64m"),
    ("pack.threads", "1"),
    ("gc.auto", "0"),
];

/// git failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GitError {
    #[error("git {what} could not be run")]
    Run {
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error("git {what} failed ({status}): {complaint}")]
    Failed { what: String, status: ExitStatus, complaint: Complaint },
    #[error("git {what} took longer than {TIMEOUT:?}")]
    TooLong { what: String },
    #[error(
        "git {what} lists more than {STDOUT_LEN_MAX} bytes, as of a repository with too many branches and tags"
    )]
    TooMuch { what: String },
}

impl GitError {
    /// Of a git that ended with this status.
    pub(crate) fn failed(what: &str, status: ExitStatus, stderr: &[u8]) -> Self {
        Self::Failed { what: what.into(), status, complaint: Complaint::new(stderr) }
    }

    /// Whether it is an answer: "no", or "nothing is set".
    pub(crate) fn is_no(&self) -> bool {
        matches!(self, Self::Failed { status, .. } if status.code() == Some(1))
    }
}

/// An error with what caused it, in one line. Some say of their causes what there is to say themselves.
pub(crate) fn with_causes(err: &dyn std::error::Error) -> String {
    let mut said = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        let text = err.to_string();
        if !said.contains(&text) {
            said.push_str(": ");
            said.push_str(&text);
        }
        cause = err.source();
    }
    said
}

/// How git is run.
#[derive(Debug, Clone)]
pub(crate) struct Git {
    path: String,
    /// Its home; has no configuration.
    home: PathBuf,
}

impl Git {
    pub(crate) fn new(path: &str, home: &Path) -> Self {
        Self { path: path.into(), home: home.into() }
    }

    /// git on a bare repository, in a process group of its own, with no other environment than this.
    pub(crate) fn command(&self, repo: &Path, args: &[&str]) -> Command {
        let mut command = self.bare(args);
        command.current_dir(repo).env("GIT_DIR", repo);
        command
    }

    fn bare(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.args(args).env_clear();
        command
            .env("PATH", &self.path)
            .env("HOME", &self.home)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            // What is pushed does not decide which object is meant.
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_CONFIG_COUNT", SETTINGS.len().to_string());
        for (at, (key, value)) in SETTINGS.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{at}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{at}"), value);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// git on objects, one of which has this id. What is pushed does not decide how a file is written out.
    pub(crate) fn plain(&self, repo: &Path, id: &str, args: &[&str]) -> Command {
        let empty = EMPTY_TREES.iter().find(|tree| tree.len() == id.len());
        let mut command = self.command(repo, args);
        command.env("GIT_ATTR_SOURCE", empty.unwrap_or(&EMPTY_TREES[0]));
        command
    }

    /// Makes an empty bare repository.
    pub(crate) async fn init(&self, repo: &Path) -> Result<(), GitError> {
        let mut command = self.bare(&["init", "--quiet", "--bare", "--template=", "-b", "master"]);
        command.arg(repo);
        output("init", &mut command, None).await.map(drop)
    }

    /// Runs git to its end; its output.
    pub(crate) async fn run(&self, repo: &Path, args: &[&str]) -> Result<Vec<u8>, GitError> {
        self.run_with(repo, args, None).await
    }

    /// Runs git to its end with something on its stdin.
    pub(crate) async fn run_with(
        &self,
        repo: &Path,
        args: &[&str],
        stdin: Option<&[u8]>,
    ) -> Result<Vec<u8>, GitError> {
        output(args.first().copied().unwrap_or_default(), &mut self.command(repo, args), stdin)
            .await
    }

    /// `git receive-pack` on a repository, as it is run for a push.
    pub(crate) fn receive_pack(&self, repo: &Path, hooks: &Path, limit: u64) -> Command {
        let mut hooks_path = OsString::from("core.hooksPath=");
        hooks_path.push(hooks);
        let settings = [
            format!("receive.maxInputSize={limit}"),
            "receive.fsckObjects=true".into(),
            "receive.unpackLimit=1".into(),
            "receive.autogc=false".into(),
            "receive.advertiseAtomic=false".into(),
            // Our hook moves all refs: what is pushed to a branch may be a tag of a commit, and git moves nothing itself if
            // it does not find the hooks, of which the other judges the push.
            "receive.procReceiveRefs=refs".into(),
        ];
        let tolerated = TOLERATED.map(|problem| format!("receive.fsck.{problem}=ignore"));
        let mut command = self.command(repo, &[]);
        command.arg("-c").arg(hooks_path);
        for setting in settings.into_iter().chain(tolerated) {
            command.args(["-c", &setting]);
        }
        command.args(["receive-pack", "."]);
        command
    }
}

/// Runs a command to its end, with something on its stdin or with what it has; its output, whole.
pub(crate) async fn output(
    what: &str,
    command: &mut Command,
    stdin: Option<&[u8]>,
) -> Result<Vec<u8>, GitError> {
    let failed_to_run = |source| GitError::Run { what: what.into(), source };
    if stdin.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = spawn(command).map_err(failed_to_run)?;
    let _group = Group::of(&child);
    let (writing, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let fed = async {
        if let (Some(mut pipe), Some(bytes)) = (writing, stdin) {
            // git may end before it has read all; what it says then is what counts.
            let _ = pipe.write_all(bytes).await;
        }
    };
    let (stdout, stderr) = (drain(out, STDOUT_LEN_MAX + 1), drain(err, STDERR_LEN_MAX));
    let ran = timeout(TIMEOUT, async {
        let ((), stdout, stderr) = tokio::join!(fed, stdout, stderr);
        Ok((child.wait().await?, stdout, stderr))
    });
    let (status, stdout, stderr) =
        ran.await.map_err(|_| GitError::TooLong { what: what.into() })?.map_err(failed_to_run)?;
    if !status.success() {
        return Err(GitError::failed(what, status, &stderr));
    }
    // What is cut off would count as not there.
    if stdout.len() > STDOUT_LEN_MAX {
        return Err(GitError::TooMuch { what: what.into() });
    }
    Ok(stdout)
}

/// Starts a git with bounded memory.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let child = command.spawn()?;
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
        let limit = Rlimit { current: Some(GIT_MEMORY), maximum: Some(GIT_MEMORY) };
        // One that has ended already needs no limit. Processes it starts have the same one.
        let _ = prlimit(Some(pid), Resource::Data, limit);
    }
    Ok(child)
}

/// Reads a pipe to its end, so that its writer never waits, and keeps the beginning.
pub(crate) async fn drain(pipe: Option<impl AsyncRead + Unpin>, keep: usize) -> Vec<u8> {
    let Some(mut pipe) = pipe else { return Vec::new() };
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let room = keep.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
    kept
}

/// What git wrote to stderr, line by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint(Vec<String>);

impl Complaint {
    /// That of these bytes.
    pub(crate) fn new(stderr: &[u8]) -> Self {
        let text = String::from_utf8_lossy(stderr);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        Self(lines.map(str::to_owned).collect())
    }

    /// Its lines.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Its first line, as the part of a sentence that it is: the others are advice to the person who runs git here, and not
    /// to the pusher who is told of this.
    pub(crate) fn reason(&self) -> String {
        let line = self.lines().next().unwrap_or_default();
        let line = line.trim_start_matches("fatal: ").trim_start_matches("prepare: ");
        line.chars().filter(|c| !c.is_control()).take(REASON_LEN_MAX).collect()
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// Whether git can keep what is pushed to a repository at this path until it is accepted: it names the place in a variable, where
/// `:` parts paths and `"` quotes one; and our hook tells of it as text.
pub(crate) fn can_be_quarantined(path: &Path) -> bool {
    path.to_str().is_some_and(|path| !path.contains([':', '"', '\n']))
}

/// A process group that is killed, whoever of it still lives, when this is dropped.
#[derive(Debug)]
pub(crate) struct Group(Option<Pid>);

impl Group {
    /// The group a child was started in as its leader.
    pub(crate) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    /// Sends a signal to all of it.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_is_whole_or_an_error() {
        for (len, is_whole) in [(STDOUT_LEN_MAX, true), (STDOUT_LEN_MAX + 1, false)] {
            let mut command = Command::new("head");
            command.args(["-c", &len.to_string(), "/dev/zero"]);
            command.stdout(Stdio::piped()).process_group(0);
            let said = output("for-each-ref", &mut command, None).await;
            match said {
                Ok(said) => assert!(is_whole && said.len() == len),
                Err(err) => assert!(!is_whole && matches!(err, GitError::TooMuch { .. }), "{err}"),
            }
        }
    }
}
