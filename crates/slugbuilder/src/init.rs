//! Being the first process of a container: orphans are reaped, signals are passed on, and what pushed code left running is
//! ended before its slug is packed.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process,
    kill_process_group, set_dumpable_behavior, wait,
};
use tokio::signal::unix::{SignalKind, signal};

/// Tells the builder that the first process above it is ours.
const UNDER_INIT: &str = "SLUGBUILDER_UNDER_INIT";
/// Signals that are passed on.
const FORWARDED: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::HUP];

/// Makes memory, environment and open files of this process unreadable for others of the same user: code that is pushed
/// runs as that user, and the URLs in our environment are permissions.
pub fn hide() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Whether this process is the first one of a container.
pub fn is_first() -> bool {
    getpid() == Pid::INIT
}

/// Runs this program again as a child, to its end; answers with its status.
pub async fn run() -> io::Result<ExitCode> {
    let mut children = signal(SignalKind::child())?;
    let mut signals = Vec::new();
    for which in FORWARDED {
        signals.push((which, signal(SignalKind::from_raw(which.as_raw()))?));
    }
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let mut builder = Command::new(std::env::current_exe()?);
    builder.arg0(name).args(words).env(UNDER_INIT, "1");
    let builder = Pid::from_child(&builder.spawn()?);
    let [(_, term), (_, int), (_, hup)] = &mut signals[..] else {
        return Err(io::Error::other("there are three signals"));
    };
    loop {
        let told = tokio::select! {
            _ = children.recv() => None,
            _ = term.recv() => Some(Signal::TERM),
            _ = int.recv() => Some(Signal::INT),
            _ = hup.recv() => Some(Signal::HUP),
        };
        if let Some(told) = told {
            // One that has just ended is reaped below.
            let _ = kill_process(builder, told);
        }
        if let Some(status) = reap(builder) {
            return Ok(ExitCode::from(status));
        }
    }
}

/// Reaps all that have ended. The builder's exit status, if it is among them.
fn reap(builder: Pid) -> Option<u8> {
    let mut ended = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == builder => ended = Some(exit_status(status)),
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return ended,
        }
    }
}

fn exit_status(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Ends every process of the container but this one and the first: nothing writes to the app while it is packed. Does
/// nothing outside of a container of ours.
pub fn end_what_is_left() {
    let under_init = std::env::var_os(UNDER_INIT).is_some_and(|value| value == "1");
    if under_init && getppid() == Some(Pid::INIT) {
        // The group of 1 is what kill(2) writes as -1: every process but the first and the caller.
        let _ = kill_process_group(Pid::INIT, Signal::KILL);
    }
}
