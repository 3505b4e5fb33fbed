//! The proc-receive hook: moves branches where a push wants them, peeled to commits. git speaks to it in pkt-lines: four hex
//! digits of length (themselves counted) and the text; `0000` ends a section.

use std::{
    io::{self, Read, Write},
    process::{Command, Stdio},
};

/// Takes git's commands and answers each.
pub(crate) fn run(input: &mut impl Read, output: &mut impl Write) -> io::Result<u8> {
    // The versions git speaks, with what else it can do; this one has been there from the beginning.
    while read_line(input)?.is_some() {}
    write_line(output, "version=1\n")?;
    end_section(output)?;
    let mut commands = Vec::new();
    while let Some(line) = read_line(input)? {
        commands.push(line);
    }
    for command in commands {
        for line in answer(&command) {
            write_line(output, &line)?;
        }
    }
    end_section(output)?;
    Ok(0)
}

/// Moves one branch; what git is told of it.
fn answer(command: &str) -> Vec<String> {
    let mut words = command.trim_end().splitn(3, ' ');
    let (Some(_), Some(new), Some(name)) = (words.next(), words.next(), words.next()) else {
        return Vec::new();
    };
    match move_branch(name, new) {
        Ok(at) if at == new => vec![format!("ok {name}\n")],
        Ok(at) => vec![format!("ok {name}\n"), format!("option new-oid {at}\n")],
        Err(err) => vec![format!("ng {name} {err}\n")],
    }
}

/// Sets a branch; to which commit. Whether it may be moved has been decided by the daemon, with the right to push.
fn move_branch(name: &str, new: &str) -> io::Result<String> {
    if new.bytes().all(|b| b == b'0') {
        git(&["update-ref", "-d", name])?;
        return Ok(new.into());
    }
    let commit = format!("{new}^{{commit}}");
    let at = git(&["rev-parse", "--verify", "--quiet", "--end-of-options", &commit])?;
    git(&["update-ref", name, &at])?;
    Ok(at)
}

fn git(args: &[&str]) -> io::Result<String> {
    let mut command = Command::new("git");
    let output = command.args(args).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(io::Error::other(format!("git {} failed", args[0])))
    }
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

    proptest! {
        #[test]
        fn reading_never_panics(bytes: Vec<u8>) {
            let _ = read_line(&mut &bytes[..]);
        }
    }
}
