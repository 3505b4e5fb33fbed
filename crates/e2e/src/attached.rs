//! A one-off job with a client that speaks to it.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use crate::app::App;

/// `flynn run cat`.
#[derive(Debug)]
pub struct Echo {
    client: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Echo {
    /// Starts it, with what the app runs.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(app: &App) -> Self {
        let mut command = app.command("flynn");
        command.args(["run", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = command.spawn().expect("flynn is in the path");
        let stdin = client.stdin.take().expect("it is a pipe");
        let stdout = BufReader::new(client.stdout.take().expect("it is a pipe"));
        Self { client, stdin, stdout }
    }

    /// Says a line and hears it again.
    ///
    /// # Panics
    /// When it is not heard.
    pub fn hears(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("it listens");
        let mut heard = String::new();
        self.stdout.read_line(&mut heard).expect("it answers");
        assert_eq!(heard.trim_end(), line);
    }

    /// Ends it, by the end of what it reads.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn end(mut self) {
        drop(self.stdin);
        let status = self.client.wait().expect("it can be waited for");
        assert!(status.success(), "{status}");
    }
}
