//! The proc-receive hook: moves refs where a push wants them, branches peeled to commits. git speaks to it in pkt-lines: four
//! hex digits of length (themselves counted) and the text; `0000` ends a section.

use std::{
    io::{self, Read, Write},
    process::{Command, Stdio},
};

use crate::git::Complaint;

/// What a pusher is told of a ref if the daemon has not taken the push.
const NOT_TAKEN: &str = "the server has not taken this push; push again";

/// Takes git's commands and answers each. Nothing is moved unless it may be.
pub(crate) fn run(
    input: &mut impl Read,
    output: &mut impl Write,
    may_move: impl FnOnce() -> bool,
) -> io::Result<u8> {
    // The versions git speaks, with what else it can do; this one has been there from the beginning.
    while read_line(input)?.is_some() {}
    write_line(output, "version=1\n")?;
    end_section(output)?;
    let mut commands = Vec::new();
    while let Some(line) = read_line(input)? {
        commands.extend(RefCommand::read(&line));
    }
    // What goes makes room for what comes: `a` cannot be beside `a/b`.
    commands.sort_by_key(|command| !command.is_deletion());
    let may_move = may_move();
    for command in commands {
        for line in if may_move { command.carry_out() } else { command.refuse(NOT_TAKEN) } {
            write_line(output, &line)?;
        }
    }
    end_section(output)?;
    Ok(0)
}

/// What one ref shall be at.
struct RefCommand {
    new: String,
    name: String,
}

impl RefCommand {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.trim_end().splitn(3, ' ').skip(1).map(str::to_owned);
        Some(Self { new: words.next()?, name: words.next()? })
    }

    fn is_deletion(&self) -> bool {
        self.new.bytes().all(|b| b == b'0')
    }

    /// Moves the ref; what git is told of it.
    fn carry_out(&self) -> Vec<String> {
        let Self { new, name } = self;
        match self.set() {
            Ok(at) if at == *new => vec![format!("ok {name}\n")],
            Ok(at) => vec![format!("ok {name}\n"), format!("option new-oid {at}\n")],
            Err(err) => self.refuse(&err.to_string()),
        }
    }

    fn refuse(&self, why: &str) -> Vec<String> {
        vec![format!("ng {} {why}\n", self.name)]
    }

    /// Sets the ref; to which object. Whether it may be moved has been decided by the daemon, with the right to push.
    fn set(&self) -> io::Result<String> {
        let Self { new, name } = self;
        if self.is_deletion() {
            // What it stands for, if for another ref, stays.
            git(&["update-ref", "--no-deref", "-d", name])?;
            return Ok(new.clone());
        }
        let at = if name.starts_with("refs/heads/") {
            let commit = format!("{new}^{{commit}}");
            git(&["rev-parse", "--verify", "--quiet", "--end-of-options", &commit])?
        } else {
            new.clone()
        };
        git(&["update-ref", name, &at])?;
        Ok(at)
    }
}

fn git(args: &[&str]) -> io::Result<String> {
    let mut command = Command::new("git");
    let output = command.args(args).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let why = Complaint::new(&output.stderr).reason();
    Err(io::Error::other(format!("git {} failed ({}): {why}", args[0], output.status)))
}

/// The next line of a section; nothing at its end.
fn read_line(input: &mut impl Read) -> io::Result<Option<String>> {
    let mut digits = [0; 4];
    input.read_exact(&mut digits)?;
    let digits = std::str::from_utf8(&digits).map_err(io::Error::other)?;
    let len = usize::from_str_radix(digits, 16).map_err(io::Error::other)?;
    let Some(len) = len.checked_sub(4) else { return Ok(None) };
    let mut line = vec![0; len];
    input.read_exact(&mut line)?;
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}

fn write_line(output: &mut impl Write, text: &str) -> io::Result<()> {
    write!(output, "{:04x}{text}", text.len() + 4)
}

fn end_section(output: &mut impl Write) -> io::Result<()> {
    output.write_all(b"0000")?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_read_as_it_is_written_and_an_end_is_an_end() {
        let mut written = Vec::new();
        write_line(&mut written, "ok refs/heads/main\n").unwrap();
        end_section(&mut written).unwrap();
        let mut input = &written[..];
        assert_eq!(read_line(&mut input).unwrap().as_deref(), Some("ok refs/heads/main\n"));
        assert_eq!(read_line(&mut input).unwrap(), None);
        assert!(read_line(&mut input).is_err());
    }

    #[test]
    fn why_git_failed_is_told_in_one_bounded_line() {
        let said =
            b"\nfatal: prepare: cannot lock ref 'refs/heads/main': it; exists\x07\n\nAnother git seems to run\n";
        let reason = |stderr: &[u8]| Complaint::new(stderr).reason();
        assert_eq!(reason(said), "cannot lock ref 'refs/heads/main': it; exists");
        assert_eq!(reason("x".repeat(9000).as_bytes()).len(), 300);
        assert_eq!(reason(b" \n"), "");
    }

    #[test]
    fn what_the_daemon_has_not_taken_is_not_moved() {
        let mut input = Vec::new();
        write_line(&mut input, "version=1\0push-options\n").unwrap();
        end_section(&mut input).unwrap();
        let [old, new] = ["0", "1"].map(|digit| digit.repeat(40));
        for (old, new, name) in [(&old, &new, "heads/main"), (&new, &old, "tags/v1")] {
            write_line(&mut input, &format!("{old} {new} refs/{name}\n")).unwrap();
        }
        end_section(&mut input).unwrap();
        let mut output = Vec::new();
        run(&mut &input[..], &mut output, || false).unwrap();
        let said = String::from_utf8(output).unwrap();
        for name in ["refs/heads/main", "refs/tags/v1"] {
            assert!(said.contains(&format!("ng {name} {NOT_TAKEN}\n")), "{said}");
        }
        assert!(!said.contains("ok "), "{said}");
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes: Vec<u8>) {
            let _ = read_line(&mut &bytes[..]);
        }
    }
}
