//! Servers as child processes that never outlive the test.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

/// A command that runs as `user` if we are root.
pub(crate) fn command_as(user: Option<&str>, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if let Some(user) = user.filter(|_| geteuid().is_root()) {
        command.args(["--reuid", user, "--regid", user, "--init-groups"]);
    }
    command.arg("--").arg(program);
    command
}

/// A server that is killed with its value, and by the kernel if the thread that started it ends first.
#[derive(Debug)]
pub(crate) struct Server {
    child: Option<Child>,
    end: Signal,
}

impl Server {
    /// Starts a command made by [`command_as`], its output in `log`. `end` is the signal that ends it at once.
    pub(crate) fn start(command: &Command, log: &Path, end: Signal) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(command.get_program())
            .args(["--pdeathsig", "KILL"])
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child: Some(child), end }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Sends a signal and waits until the process is gone.
    pub(crate) fn end_with(&mut self, signal: Signal) {
        self.signal(signal);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        self.end_with(self.end);
    }
}
