//! The proc-receive hook: moves refs where a push wants them, branches peeled to commits. git speaks to it in pkt-lines: four
//! hex digits of length (themselves counted) and the text; `0000` ends a section.
//!
//! Each ref is moved from where the daemon saw it when it judged the push, with the right to it. So what somebody else moved while
//! the receiver ran is not overwritten, and a hook that outlives its daemon undoes no later push: git compares.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
    process::{Command, Stdio},
};

use crate::{
    domain::{
        names::clash,
        told::{short, shown},
    },
    git::Complaint,
    hook::Terms,
};

/// What a pusher is told of a ref if the daemon has not taken the push.
const NOT_TAKEN: &str = "the server has not taken this push; push again";
/// What would be told of a ref if the daemon ended meanwhile.
const LEFT: &str = "the server has ended meanwhile; push again";
/// What is told of a ref that is not where the daemon saw it.
const MOVED: &str = "somebody else moved it while this push was under way; fetch it and push again";
/// What is told of a ref that was to go with others that did not come.
const STAYS: &str = "it stays, for not all else of this push could be stored";
/// Most names that are told of refs that could not be moved.
const TOLD_MAX: usize = 5;

/// Takes git's commands and answers each. `leave` is asked whether something may be moved, and its answer has the terms, and
/// whether it may still be. What the pusher is to be told beside the answers is `said`.
pub(crate) fn run<L: Fn() -> bool>(
    input: &mut impl Read,
    output: &mut impl Write,
    said: &mut impl Write,
    leave: impl FnOnce() -> Option<(Terms, L)>,
) -> io::Result<u8> {
    // The versions git speaks, with what else it can do; this one has been there from the beginning.
    while read_line(input)?.is_some() {}
    write_line(output, "version=1\n")?;
    end_section(output)?;
    let mut commands = Vec::new();
    while let Some(line) = read_line(input)? {
        commands.extend(RefCommand::read(&line));
    }
    // Before the daemon answers: in a copy, nobody else has moved anything by then.
    let moves = Moves::prepare(&mut commands);
    let (answers, unmoved): (Vec<String>, String) = match leave() {
        None => (commands.iter().map(|it| it.refuse(NOT_TAKEN)).collect(), String::new()),
        Some((terms, lasts)) => {
            let answers = match moves {
                Ok(moves) => moves.with_seen(terms.seen).carry_out(&commands, &lasts),
                Err(err) => commands.iter().map(|it| it.refuse(&err.to_string())).collect(),
            };
            (answers, terms.unmoved)
        }
    };
    if let Some(names) = refused(&answers).filter(|_| !unmoved.is_empty()) {
        // Whether anybody hears it changes nothing of what git is told.
        let _ = writeln!(said, "Not moved here: {names}. {unmoved}");
    }
    for line in answers {
        write_line(output, &line)?;
    }
    end_section(output)?;
    Ok(0)
}

/// The names of those that git is told are refused, if there are any.
fn refused(answers: &[String]) -> Option<String> {
    let names = answers.iter().filter_map(|line| line.strip_prefix("ng ")?.split(' ').next());
    let mut names: Vec<String> = names.map(|name| shown(short(name))).collect();
    let more = names.len().saturating_sub(TOLD_MAX);
    names.truncate(TOLD_MAX);
    let told = (!names.is_empty()).then(|| names.join(", "))?;
    Some(if more == 0 { told } else { format!("{told} and {more} more") })
}

/// What one ref shall be at.
struct RefCommand {
    /// What was pushed.
    new: String,
    name: String,
    /// The object to set it to, if that is what a ref of its kind is at.
    at: Option<String>,
}

impl RefCommand {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.trim_end().splitn(3, ' ').skip(1).map(str::to_owned);
        let (new, name) = (words.next()?, words.next()?);
        Some(Self { at: Some(new.clone()), new, name })
    }

    fn is_deletion(&self) -> bool {
        self.new.bytes().all(|b| b == b'0')
    }

    /// When it is moved, beside these that come.
    fn step(&self, come: &BTreeSet<String>) -> Step {
        match self.is_deletion() {
            false => Step::Move,
            true if clash(come, &self.name).is_some() => Step::MakeRoom,
            true => Step::Go,
        }
    }

    fn is_peeled(&self) -> bool {
        !self.is_deletion() && self.name.starts_with("refs/heads/")
    }

    fn refuse(&self, why: &str) -> String {
        format!("ng {} {why}\n", self.name)
    }

    /// What git is told when it is done.
    fn accept(&self, at: &str) -> Vec<String> {
        let mut lines = vec![format!("ok {}\n", self.name)];
        if at != self.new {
            lines.push(format!("option new-oid {at}\n"));
        }
        lines
    }
}

/// Where the refs of the repository have to be before anything is moved.
struct Moves {
    there: BTreeMap<String, String>,
}

/// When a ref is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// It makes room for one that comes: `a` cannot be beside `a/b`, and in one transaction git does not let it follow that.
    MakeRoom,
    Move,
    /// It goes when all that comes is there, or what was only renamed would be lost.
    Go,
}

impl Moves {
    /// Looks where all refs are, and what branches are to be at. Whether they may be moved has been decided by the daemon, with
    /// the right to push.
    fn prepare(commands: &mut [RefCommand]) -> io::Result<Self> {
        let come = commands.iter().filter(|command| !command.is_deletion());
        let come: BTreeSet<String> = come.map(|command| command.name.clone()).collect();
        commands.sort_by_key(|command| command.step(&come));
        let refs = git(&["for-each-ref", "--format=%(refname) %(objectname)"], "")?;
        let refs = refs.lines().filter_map(|line| line.split_once(' '));
        let there = refs.map(|(name, id)| (name.to_owned(), id.to_owned())).collect();
        let peeled = || commands.iter().filter(|command| command.is_peeled());
        let asked: String = peeled().map(|it| format!("{}^{{commit}}\n", it.new)).collect();
        if !asked.is_empty() {
            let said = git(&["cat-file", "--batch-check=%(objectname) %(objecttype)"], &asked)?;
            let peeled = commands.iter_mut().filter(|command| command.is_peeled());
            for (command, line) in peeled.zip(said.lines()) {
                command.at = line.strip_suffix(" commit").map(str::to_owned);
            }
        }
        Ok(Self { there })
    }

    /// The same, from where the daemon saw the refs, if it says so.
    fn with_seen(self, seen: Option<BTreeMap<String, String>>) -> Self {
        Self { there: seen.unwrap_or(self.there) }
    }

    /// Moves all; what git is told of each.
    fn carry_out(&self, commands: &[RefCommand], lasts: &impl Fn() -> bool) -> Vec<String> {
        let come = commands.iter().filter(|command| !command.is_deletion());
        let come: BTreeSet<String> = come.map(|command| command.name.clone()).collect();
        let mut said = Vec::new();
        for commands in commands.chunk_by(|one, two| one.step(&come) == two.step(&come)) {
            let is_going = commands.iter().any(|command| command.step(&come) == Step::Go);
            if is_going && refused(&said).is_some() {
                said.extend(commands.iter().map(|command| command.refuse(STAYS)));
            } else {
                self.step(commands, lasts, &mut said);
            }
        }
        said
    }

    /// Moves some in one transaction, and each half by itself where git refuses that: so one takes no others with it, and of many
    /// few processes are made.
    fn step(&self, commands: &[RefCommand], lasts: &impl Fn() -> bool, said: &mut Vec<String>) {
        if commands.is_empty() {
            return;
        }
        if !lasts() {
            said.extend(commands.iter().map(|command| command.refuse(LEFT)));
            return;
        }
        let orders: String = commands.iter().filter_map(|command| self.order(command)).collect();
        let done = git(&["update-ref", "--stdin"], &orders);
        match (done, commands) {
            (Ok(_), _) => said.extend(commands.iter().flat_map(|command| match &command.at {
                Some(at) => command.accept(at),
                None => vec![command.refuse("it is no commit, and a branch is at nothing else")],
            })),
            (Err(err), [command]) => match (&command.at, is_now_at(&command.name)) {
                // By a transaction that failed later.
                (Some(at), now) if now.as_ref() == Some(at).filter(|_| !command.is_deletion()) => {
                    said.extend(command.accept(at));
                }
                (_, now) if now.as_ref() != self.there.get(&command.name) => {
                    said.push(command.refuse(MOVED));
                }
                _ => said.push(command.refuse(&err.to_string())),
            },
            (Err(_), _) => {
                let (first, second) = commands.split_at(commands.len() / 2);
                self.step(first, lasts, said);
                self.step(second, lasts, said);
            }
        }
    }

    /// What `git update-ref --stdin` is told of a ref.
    fn order(&self, command: &RefCommand) -> Option<String> {
        let RefCommand { name, at, .. } = command;
        let (at, old) = (at.as_ref()?, self.there.get(name));
        Some(match old {
            // What it stands for, if for another ref, stays. One that is not listed is what git cannot read.
            _ if command.is_deletion() => {
                let old = old.map_or(String::new(), |old| format!(" {old}"));
                format!("option no-deref\ndelete {name}{old}\n")
            }
            Some(old) => format!("update {name} {at} {old}\n"),
            None => format!("update {name} {at} {}\n", "0".repeat(at.len())),
        })
    }
}

/// Where a ref is now, if it is there.
fn is_now_at(name: &str) -> Option<String> {
    let there = git(&["rev-parse", "--verify", "--quiet", "--end-of-options", name], "");
    there.ok().map(|there| there.trim().to_owned())
}

/// Runs git with something on its stdin, which may be as much as it reads before it says anything; its output.
fn git(args: &[&str], stdin: &str) -> io::Result<String> {
    let mut command = Command::new("git");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        // git may end before it has read all; what it says then is what counts.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
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
    fn what_the_daemon_has_not_taken_is_not_moved_nor_when_it_has_ended() {
        let mut input = Vec::new();
        write_line(&mut input, "version=1\0push-options\n").unwrap();
        end_section(&mut input).unwrap();
        let [old, new] = ["0", "1"].map(|digit| digit.repeat(40));
        for name in ["v1", "v2"] {
            write_line(&mut input, &format!("{old} {new} refs/tags/{name}\n")).unwrap();
        }
        end_section(&mut input).unwrap();
        let refused = |leave: Option<bool>, why: &str| {
            let (mut output, mut told) = (Vec::new(), Vec::new());
            let terms = Terms { seen: None, unmoved: "It is deployed.".into() };
            let may = || leave.map(|lasts| (terms, move || lasts));
            run(&mut &input[..], &mut output, &mut told, may).unwrap();
            let told = String::from_utf8(told).unwrap();
            let words = leave.map_or("", |_| "Not moved here: v1, v2. It is deployed.\n");
            assert_eq!(told, words);
            let said = String::from_utf8(output).unwrap();
            for name in ["refs/tags/v1", "refs/tags/v2"] {
                assert!(said.contains(&format!("ng {name} {why}\n")), "{said}");
            }
            assert!(!said.contains("ok "), "{said}");
        };
        refused(None, NOT_TAKEN);
        refused(Some(false), LEFT);
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes: Vec<u8>) {
            let _ = read_line(&mut &bytes[..]);
        }
    }
}
