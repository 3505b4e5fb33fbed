//! Somebody at a shell.

use std::{
    ffi::OsStr,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::fake::Fake;

/// Longest time a command may take.
const BOUND_SECONDS: &str = "60";

/// A person with a home, which is also the folder they are in.
pub(crate) struct Person {
    pub(crate) home: TempDir,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// What it printed, having succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// What it complained, having failed with status 1 and printed nothing.
    #[track_caller]
    pub(crate) fn failed(self) -> String {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        self.stderr
    }
}

impl Person {
    /// Somebody who has never used Flynn.
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    /// Somebody who uses a fake controller.
    pub(crate) fn of(fake: &Fake) -> Self {
        let person = Self::new();
        let args = ["server-add", "-g", "localhost:2222", "local", &fake.url, "key"];
        person.flynn(&args).ok();
        person
    }

    pub(crate) fn path(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn rc(&self) -> String {
        std::fs::read_to_string(self.path().join(".flynnrc")).unwrap()
    }

    /// A program of theirs with their environment and no other.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CEILING_DIRECTORIES", self.path().parent().unwrap())
            .current_dir(self.path());
        command
    }

    pub(crate) fn git(&self, args: &[&str]) -> String {
        let output = self.command("git").args(args).output().unwrap();
        assert!(output.status.success(), "git {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn flynn(&self, args: &[&str]) -> Outcome {
        self.flynn_with(args, &[], "")
    }

    pub(crate) fn flynn_with(&self, args: &[&str], env: &[(&str, &str)], input: &str) -> Outcome {
        let mut command = self.command("timeout");
        command.args(["--foreground", BOUND_SECONDS, env!("CARGO_BIN_EXE_flynn")]).args(args);
        command.envs(env.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Who does not read it has ended already.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
