//! Running the receiver: the command that turns a commit into a deployment.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use futures_util::{FutureExt, future::FusedFuture};
use rustix::process::Signal;
use tokio::{io::AsyncReadExt, net::unix::pipe, process::Command, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{frames::Frames, git::Group, guard::Line};

/// A receiver that is told to stop cancels its build; then it is killed.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(15);
/// What a receiver that has ended leaves in its pipe is there at once; a process it left behind may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How a receiver ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Exited(ExitStatus),
    /// The push was given up first.
    Stopped,
}

/// Runs a receiver under guard with `tree` on its stdin and passes on what it says, both streams in the order in which it says it.
pub(crate) async fn run(
    mut command: Command,
    tree: File,
    out: &mut Frames,
    abort: &CancellationToken,
) -> io::Result<Ended> {
    let (reader, writer) = io::pipe()?;
    let (line, theirs) = Line::new()?;
    let mut said = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    command
        .stdin(Stdio::from(tree))
        .stdout(writer)
        .stderr(theirs)
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    // Our ends of the pipe: it shall end with the receiver.
    drop(command);
    let group = Group::of(&child);
    let forward = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = said.read(&mut buffer).await {
            // Nobody listening any more is no reason to leave the receiver's pipe full.
            let _ = out.write_all(&buffer[..read]).await;
        }
    }
    .fuse();
    let work = async {
        tokio::pin!(forward);
        let status = tokio::select! {
            status = child.wait() => status,
            () = &mut forward => child.wait().await,
        };
        if !forward.is_terminated() {
            let _ = timeout(LAST_WORDS, forward).await;
        }
        status.map(|status| line.status().unwrap_or(status))
    };
    tokio::pin!(work);
    tokio::select! {
        status = &mut work => Ok(Ended::Exited(status?)),
        () = abort.cancelled() => {
            group.signal(Signal::TERM);
            // One that finishes all the same has deployed, and the refs must say so.
            match timeout(STOP_GRACE, &mut work).await {
                Ok(Ok(status)) if status.success() => Ok(Ended::Exited(status)),
                _ => Ok(Ended::Stopped),
            }
        }
    }
}
