//! The programs of a run.

use std::process::{Child, Command, Stdio};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::usage;

/// A program that ends with its value, and with this process.
pub(super) struct Process {
    child: Child,
    end: Signal,
}

impl Process {
    /// Starts a program. It is ended with a signal that it passes on to the processes it starts.
    pub(super) fn start(
        program: &str,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        Self::spawn(program, args, env, ("TERM", Signal::TERM))
    }

    /// Starts a program that was built with this one; it is killed in the end.
    pub(super) fn ours(name: &str, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let me = std::env::current_exe().context("finding this program's folder")?;
        let program = me.with_file_name(name);
        Self::spawn(&program.to_string_lossy(), &[], env, ("KILL", Signal::KILL))
    }

    fn spawn(
        program: &str,
        args: &[&str],
        env: &[(&str, &str)],
        (name, end): (&str, Signal),
    ) -> anyhow::Result<Self> {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", name, "--", program])
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        Ok(Self { child, end })
    }

    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("sending a signal")
    }

    pub(super) fn usage(&self) -> usage::Family {
        usage::Family(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.signal(self.end);
        let _ = self.child.wait();
    }
}
