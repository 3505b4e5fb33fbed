//! The process between the daemon and a receiver: this program under another name. A daemon that is killed cannot tell its receiver
//! to stop, and the next daemon would run a second one beside it. So somebody watches who outlives the daemon, and until the
//! receiver has ended keeps others from pushing to the repository.
//!
//! It has the line to the daemon as its stderr, for that needs nothing but what every program has. The receiver writes
//! both its streams to our stdout.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
};

use rustix::process::{Signal, kill_current_process_group};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use crate::{receiver::STOP_GRACE, right};

/// What the process is called.
const NAME: &str = "receiver-guard";

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

    /// How the receiver ended, as a guard that has ended said it; nothing if there was none.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        let mut status = [0; 4];
        (&self.0).read_exact(&mut status).ok()?;
        Some(ExitStatus::from_raw(i32::from_be_bytes(status)))
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
    // The receiver is told to stop by a signal to all of our group, and we do not end before it.
    let mut told = signal(SignalKind::terminate())?;
    // A copy that cannot be locked is nobody else's.
    let _acting = right::act(&repo).ok();
    if (&line).read(&mut [0]).is_ok() {
        return Err(io::Error::other("the server has ended"));
    }
    let mut daemon = tokio::net::UnixStream::from_std(line)?;
    receiver.stderr(Stdio::from(io::stdout().as_fd().try_clone_to_owned()?));
    let mut child = receiver.spawn()?;
    let mut byte = [0];
    let status = tokio::select! {
        status = child.wait() => status?,
        // It says nothing, so this is its end.
        _ = daemon.read(&mut byte) => return end(child).await,
        () = async { while told.recv().await.is_some() {} } => child.wait().await?,
    };
    // One that has ended meanwhile does not want to know.
    let _ = daemon.write_all(&status.into_raw().to_be_bytes()).await;
    Ok(())
}

/// Ends a receiver as the daemon would have, and whatever it started.
async fn end(mut child: Child) -> io::Result<()> {
    kill_current_process_group(Signal::TERM)?;
    let _ = timeout(STOP_GRACE, child.wait()).await;
    kill_current_process_group(Signal::KILL)?;
    Ok(())
}
