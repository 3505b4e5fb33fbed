//! Commands run on behalf of the caller.

use std::{
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

/// Starts a command that ends with us.
pub(crate) fn start(
    words: &[String],
    variables: impl IntoIterator<Item = (String, String)>,
) -> anyhow::Result<Child> {
    let (program, arguments) = words.split_first().context("no command was given")?;
    Command::new(program)
        .args(arguments)
        .envs(variables)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {program}"))
}

/// Sends a signal; that the child is no more is no error.
pub(crate) fn send(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

/// The exit code a shell gives for a status.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// The signals that end us.
pub(crate) struct Interrupts {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
}

impl Interrupts {
    /// Catches them from now on.
    pub(crate) fn catch() -> anyhow::Result<Self> {
        let int = signal(SignalKind::interrupt()).context("catching SIGINT")?;
        let term = signal(SignalKind::terminate()).context("catching SIGTERM")?;
        Ok(Self { int, term })
    }

    /// Waits for one.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.int.recv() => Signal::INT,
            _ = self.term.recv() => Signal::TERM,
        }
    }
}
