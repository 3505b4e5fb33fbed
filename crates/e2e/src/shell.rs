//! Commands, as a person types them.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

/// What a command said and how it ended.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit status.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    fn of(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output of a command that succeeded.
    ///
    /// # Panics
    /// When it failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "it failed: {}\n{}", self.out, self.err);
        self.out
    }

    /// Both outputs of a command that failed.
    ///
    /// # Panics
    /// When it succeeded.
    #[track_caller]
    pub fn refused(self) -> String {
        assert_ne!(self.status, 0, "it succeeded: {}\n{}", self.out, self.err);
        format!("{}\n{}", self.out, self.err)
    }
}

/// Runs a command line of words in a folder.
///
/// # Panics
/// When the program cannot be started.
pub fn run(folder: &Path, words: &[&str]) -> Said {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(folder).stdin(Stdio::null());
    command.env("GIT_TERMINAL_PROMPT", "0");
    Said::of(command.output().unwrap_or_else(|err| panic!("{words:?} could not be started: {err}")))
}

/// Runs a command with something on its standard input.
///
/// # Panics
/// When the program cannot be started.
pub fn run_with(folder: &Path, words: &[&str], input: &[u8]) -> Said {
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|err| panic!("{words:?} could not be started: {err}"));
    // A program that does not read its input is no failure of this one.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input));
    Said::of(child.wait_with_output().expect("a started child can be waited for"))
}

/// Runs a line of shell anywhere.
pub fn sh(line: &str) -> Said {
    run(Path::new("/"), &["bash", "-c", line])
}
