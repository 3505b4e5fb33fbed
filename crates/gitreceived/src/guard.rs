//! The process between the daemon and a receiver: this program under another name. A daemon that is killed cannot tell its receiver
//! to stop, and the next daemon would run a second one beside it. So somebody watches who outlives the daemon, and until the
//! receiver has ended keeps others from pushing to the repository.
//!
//! It has the line to the daemon as its stderr, for that needs nothing but what every program has: it says the receiver's process id
//! and then how the receiver ended, four bytes each. The receiver writes both its streams to our stdout. It leads a process group of
//! its own, so that what it sends to its group reaches neither us nor the daemon.

use std::{
    convert::Infallible,
    ffi::{OsStr, OsString},
    fs::{self, File},
    future::pending,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, kill_process_group, set_child_subreaper, waitpid,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

use crate::{receiver::STOP_GRACE, right};

/// What the process is called.
const NAME: &str = "receiver-guard";
/// What was killed is gone within this time, unless the kernel itself waits for something.
const KILL_GRACE: Duration = Duration::from_secs(2);
/// Whether it is gone is looked at this often.
const GONE_INTERVAL: Duration = Duration::from_millis(10);

/// Whether this process was started as one: by its name.
pub fn is_me(program: &OsStr) -> bool {
    program == NAME
}

/// A receiver under guard; its arguments, environment and streams are those of this command, but for stderr.
pub(crate) fn command(program: &Path, repo: &Path, receiver: &str) -> Command {
    let mut command = Command::new(program);
    command.arg0(NAME).arg(repo).arg(receiver);
    command
}

/// The daemon's end of the line.
#[derive(Debug)]
pub(crate) struct Line(UnixStream);

impl Line {
    /// A line, and the end that is the guard's stderr.
    pub(crate) fn new() -> io::Result<(Self, Stdio)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self(ours), OwnedFd::from(theirs).into()))
    }

    /// How the receiver ended, as a guard that has ended said it; nothing if there was none. The receiver of a guard that was killed
    /// is killed as well.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        let receiver = Pid::from_raw(self.number()?);
        let status = self.number().map(ExitStatus::from_raw);
        if let (Some(receiver), None) = (receiver, status) {
            let _ = kill_process_group(receiver, Signal::KILL);
        }
        status
    }

    fn number(&self) -> Option<i32> {
        let mut bytes = [0; 4];
        (&self.0).read_exact(&mut bytes).ok()?;
        Some(i32::from_be_bytes(bytes))
    }
}

/// Runs a receiver, by what `command` said.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = args.skip(1).collect();
    let [repo, program, args @ ..] = &words[..] else { return ExitCode::FAILURE };
    let mut receiver = Command::new(program);
    receiver.args(args);
    match watch(repo.into(), receiver) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // Whoever pushes is told; there is nobody else.
            let program = program.display();
            let _ = writeln!(
                io::stdout(),
                "{program} could not be run: {err}. Nothing was changed; push again."
            );
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn watch(repo: PathBuf, mut receiver: Command) -> io::Result<()> {
    let line = UnixStream::from(io::stderr().as_fd().try_clone_to_owned()?);
    line.set_nonblocking(true)?;
    let mut told = signal(SignalKind::terminate())?;
    let mut ended = signal(SignalKind::child())?;
    // A copy that cannot be locked is nobody else's.
    let _acting = right::act(&repo).ok();
    if (&line).read(&mut [0]).is_ok() {
        return Err(io::Error::other("the server has ended"));
    }
    let mut daemon = tokio::net::UnixStream::from_std(line)?;
    // A second reader of what the receiver says, for when the daemon reads no longer: writing would kill the receiver before
    // it has heard that it is to stop.
    let said = File::open("/proc/self/fd/1")?;
    // What leaves its group and outlives its parent becomes ours, so that it can be found.
    set_child_subreaper(Some(rustix::process::getpid()))?;
    receiver.stderr(Stdio::from(io::stdout().as_fd().try_clone_to_owned()?));
    let mut child = receiver.process_group(0).spawn()?;
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let pid = pid.ok_or_else(|| io::Error::other("it has no process id"))?;
    let _ = daemon.write_all(&pid.as_raw_pid().to_be_bytes()).await;
    let mut byte = [0];
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            // It says nothing, so this is its end.
            _ = daemon.read(&mut byte) => {
                break tokio::select! {
                    status = stop(&mut child, pid) => status?,
                    never = drain(said) => match never? {},
                };
            }
            Some(()) = told.recv() => break stop(&mut child, pid).await?,
            Some(()) = ended.recv() => reap_orphans(pid),
        }
    };
    // What it left behind in its group has lost its purpose.
    let _ = kill_process_group(pid, Signal::KILL);
    // A daemon that has ended meanwhile does not want to know.
    let _ = daemon.write_all(&status.into_raw().to_be_bytes()).await;
    Ok(())
}

/// Tells a receiver to stop, and ends it and everything it started when it has not done so in time.
async fn stop(child: &mut Child, pid: Pid) -> io::Result<ExitStatus> {
    let _ = kill_process_group(pid, Signal::TERM);
    let told = timeout(STOP_GRACE, child.wait()).await;
    let _ = kill_process_group(pid, Signal::KILL);
    let status = match told {
        Ok(status) => status?,
        Err(_) => child.wait().await?,
    };
    let _ = timeout(KILL_GRACE, kill_orphans()).await;
    Ok(status)
}

/// Kills what a receiver that has ended left outside its group. What one of them started becomes ours when it has ended.
async fn kill_orphans() {
    loop {
        let orphans = children();
        if orphans.is_empty() {
            return;
        }
        for orphan in orphans {
            let _ = kill_process(orphan, Signal::KILL);
            let _ = waitpid(Some(orphan), WaitOptions::NOHANG);
        }
        sleep(GONE_INTERVAL).await;
    }
}

/// Takes note of what a receiver left outside its group and has ended.
fn reap_orphans(receiver: Pid) {
    for orphan in children().into_iter().filter(|child| *child != receiver) {
        let _ = waitpid(Some(orphan), WaitOptions::NOHANG);
    }
}

/// Our children; none where the kernel does not tell.
fn children() -> Vec<Pid> {
    let pid = std::process::id();
    let children = fs::read_to_string(format!("/proc/self/task/{pid}/children"));
    let children = children.unwrap_or_default();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Reads what nobody wants to know.
async fn drain(said: File) -> io::Result<Infallible> {
    let mut said = pipe::Receiver::from_owned_fd(said.into())?;
    // Our own stdout keeps it open.
    tokio::io::copy(&mut said, &mut tokio::io::sink()).await?;
    pending().await
}
