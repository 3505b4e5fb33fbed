//! Running the receiver: the command that turns a commit into a deployment.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::{FutureExt, future::FusedFuture};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{io::AsyncReadExt, net::unix::pipe, process::Command, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{frames::Frames, guard::Line};

/// A receiver that is told to stop cancels its build; then it is killed.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(15);
/// Its guard needs this long at most to end it, and itself, after that.
const GUARD_GRACE: Duration = Duration::from_secs(3);
/// What a receiver that has ended leaves in its pipe is there at once; a process it left behind may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How a receiver ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Exited {
        /// How.
        status: ExitStatus,
        /// Whether it has said anything.
        has_spoken: bool,
    },
    /// The push was given up first.
    Stopped,
}

impl Ended {
    fn is_success(&self) -> bool {
        matches!(self, Self::Exited { status, .. } if status.success())
    }
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
    // One whose line is dropped stops its receiver as one whose daemon was killed.
    command.stdin(Stdio::from(tree)).stdout(writer).stderr(theirs).process_group(0);
    let mut child = command.spawn()?;
    // Our ends of the pipe: it shall end with the receiver.
    drop(command);
    let guard = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let has_spoken = AtomicBool::new(false);
    let forward = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = said.read(&mut buffer).await {
            has_spoken.store(true, Ordering::Relaxed);
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
        let status = status.map(|status| line.status().unwrap_or(status))?;
        io::Result::Ok(Ended::Exited { status, has_spoken: has_spoken.load(Ordering::Relaxed) })
    };
    tokio::pin!(work);
    tokio::select! {
        ended = &mut work => ended,
        () = abort.cancelled() => {
            tell(guard);
            // One that finishes all the same has deployed, and the refs must say so.
            match timeout(STOP_GRACE + GUARD_GRACE, &mut work).await {
                Ok(Ok(ended)) if ended.is_success() => Ok(ended),
                _ => Ok(Ended::Stopped),
            }
        }
    }
}

/// Has a guard stop its receiver.
fn tell(guard: Option<Pid>) {
    if let Some(guard) = guard {
        let _ = kill_process(guard, Signal::TERM);
    }
}
