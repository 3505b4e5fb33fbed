//! The pre-receive hook: git runs this program again, and it asks the daemon, over the push's own socket, what to do.
//! So neither git nor anything it runs has a key.
//!
//! The hook sends one `Question` as a frame; the daemon answers with frames of output and a last one that says how to
//! exit. A frame is its length (32 bits, big-endian) and its bytes; the length `END` is followed by the exit status.
//!
//! When the daemon has taken the push, git has the same program move the refs (`proc-receive`): what is pushed to a branch
//! may be a tag, and then the branch is set to its commit. It asks the daemon too, for the first hook may be gone; without
//! the second git moves nothing. So what nobody has judged is never carried out, whatever becomes of the hooks.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::DirBuilder,
    io::{self, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, symlink},
        net::UnixStream,
    },
    path::Path,
    process::ExitCode,
};

use rustix::{
    fs::{Access, access},
    process::geteuid,
};
use serde::{Deserialize, Serialize};

use crate::{domain::update::UPDATES_LEN_MAX, moving, right};

/// The names git runs us under.
pub(crate) const NAMES: [&str; 2] = [ASKING, MOVING];
/// The hook that asks the daemon.
const ASKING: &str = "pre-receive";
/// The hook that moves refs.
const MOVING: &str = "proc-receive";
/// Length that announces the exit status instead of output.
pub(crate) const END: u32 = u32::MAX;
/// Variables by which git shows objects that it has not accepted yet.
pub(crate) const QUARANTINE: [&str; 3] =
    ["GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", QUARANTINE_PATH];
/// That of them which says where they are, and that no ref may be moved meanwhile.
pub(crate) const QUARANTINE_PATH: &str = "GIT_QUARANTINE_PATH";

/// What the hook was run for.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Question {
    /// Whether it asks if it may move the refs, and not about them.
    pub(crate) is_moving: bool,
    /// The hook's stdin.
    pub(crate) updates: String,
    /// Those of [`QUARANTINE`] that are set.
    pub(crate) quarantine: BTreeMap<String, String>,
    /// Whether it reads [`Terms`]. One of the version before would show them to the pusher.
    #[serde(default)]
    pub(crate) reads_terms: bool,
}

/// What the daemon says to the hook that may move refs, in a frame. One of the version before says nothing.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// Where those refs of the push were that were there, when it was judged. Nothing where nobody else moves any.
    pub(crate) seen: Option<BTreeMap<String, String>>,
    /// What the pusher is told if not all can be moved.
    pub(crate) unmoved: String,
}

/// What a pusher is told whose list of branches is not read.
const TOO_LONG: &str = "The names of the branches and tags of this push are more than a megabyte. Nothing was changed; push fewer at once.\n";

/// Names the socket of the push that a hook belongs to.
pub(crate) const SOCKET_VARIABLE: &str = "GITRECEIVED_SOCKET";
/// Is set where the daemon answers whether refs may be moved. One of the version before, whose program was replaced while it
/// ran, does not: there, git asks for nothing that was not judged.
pub(crate) const ANSWERS_VARIABLE: &str = "GITRECEIVED_ANSWERS";
/// What it is set to where the daemon then stays on the line until the refs are moved: when it hangs up it has ended.
pub(crate) const STAYS: &str = "stays";

/// Whether this process was started as a hook: by the name git runs it under.
pub fn is_me(program: &OsStr) -> bool {
    Path::new(program).file_name().is_some_and(|name| NAMES.iter().any(|hook| name == *hook))
}

/// Makes sure that git finds the hooks in a directory of ours and can run them: something that cleans up where temporary
/// files are may have removed them, and the directory.
pub(crate) fn check(dir: &Path, program: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let there = dir.symlink_metadata()?;
    let is_ours = there.is_dir() && there.uid() == geteuid().as_raw() && there.mode() & 0o077 == 0;
    if !is_ours {
        return Err(io::Error::other(format!("{} is not ours alone", dir.display())));
    }
    access(program, Access::EXEC_OK).map_err(|err| {
        io::Error::other(format!("{} cannot be executed: {err}", program.display()))
    })?;
    for name in NAMES {
        let hook = dir.join(name);
        if hook.read_link().is_ok_and(|to| to == program) {
            continue;
        }
        // In one step, for other pushes may look for it meanwhile.
        let link = tempfile::Builder::new().make_in(dir, |path| symlink(program, path))?;
        link.into_temp_path().persist(&hook)?;
    }
    Ok(())
}

/// Runs the hook this process was started as.
#[expect(clippy::print_stderr, reason = "the hook's stderr is what the pusher sees")]
pub fn run(program: &OsStr) -> ExitCode {
    let socket = std::env::var_os(SOCKET_VARIABLE).unwrap_or_default();
    let socket = Path::new(&socket);
    let ran = if Path::new(program).ends_with(MOVING) {
        let leave = || ask_to_move(socket, std::env::var_os(ANSWERS_VARIABLE).as_deref());
        moving::run(&mut io::stdin().lock(), &mut io::stdout().lock(), &mut io::stderr(), leave)
    } else {
        ask(socket)
    };
    match ran {
        Ok(status) => ExitCode::from(status),
        Err(err) => {
            eprintln!("The server broke off ({err}). Push again.");
            ExitCode::FAILURE
        }
    }
}

/// Asks the daemon, if it answers, whether refs may be moved; the terms, and what tells whether that is still so.
fn ask_to_move(
    socket: &Path,
    answers: Option<&OsStr>,
) -> Option<(Terms, impl Fn() -> bool + use<>)> {
    let question = Question { is_moving: true, reads_terms: true, ..Question::default() };
    let (mut daemon, mut terms) = (None, Vec::new());
    if let Some(how) = answers {
        match converse(socket, &question, &mut terms) {
            Ok((there, 0)) => daemon = Some(there).filter(|_| how == STAYS),
            _ => return None,
        }
    }
    let terms = serde_json::from_slice(&terms).unwrap_or_default();
    // First, and then whether the daemon is on the line. A copy that cannot be locked is nobody else's.
    let repo = std::env::var_os("GIT_DIR").unwrap_or_else(|| ".".into());
    let acting = right::act(Path::new(&repo)).ok();
    let lasts = move || {
        let _acting = &acting;
        daemon.as_ref().is_none_or(is_on_the_line)
    };
    Some((terms, lasts))
}

/// Whether the daemon has not hung up. It says nothing more.
fn is_on_the_line(daemon: &UnixStream) -> bool {
    let heard = daemon.set_nonblocking(true).and_then(|()| (&mut &*daemon).read(&mut [0]));
    matches!(heard, Err(err) if err.kind() == io::ErrorKind::WouldBlock)
}

/// What git tells a hook, whole: what the daemon is not told of it cannot judge, and git would carry it out. Or why that cannot
/// be told.
fn read_updates(from: impl Read) -> io::Result<Result<String, String>> {
    let mut updates = Vec::new();
    from.take(UPDATES_LEN_MAX as u64 + 1).read_to_end(&mut updates)?;
    if updates.len() > UPDATES_LEN_MAX {
        return Ok(Err(TOO_LONG.into()));
    }
    Ok(String::from_utf8(updates).map_err(|err| {
        let valid = &err.as_bytes()[..err.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|&&b| b == b'\n').count();
        let line = err.as_bytes().split(|&b| b == b'\n').nth(line).unwrap_or_default();
        let name = line.splitn(3, |&b| b == b' ').nth(2).unwrap_or_default();
        format!(
            "The name {} is not UTF-8, and no other is kept here. Nothing was changed; rename it (git branch -m, or git push \
             <remote> <old name>:<new name>); one that is there must be deleted by whoever runs this server.\n",
            name.escape_ascii()
        )
    }))
}

fn ask(socket: &Path) -> io::Result<u8> {
    let updates = match read_updates(io::stdin())? {
        Ok(updates) => updates,
        Err(why) => {
            io::stderr().write_all(why.as_bytes())?;
            return Ok(1);
        }
    };
    let set =
        |name: &str| std::env::var_os(name).and_then(|value| OsString::into_string(value).ok());
    let quarantine =
        QUARANTINE.iter().filter_map(|name| Some((String::from(*name), set(name)?))).collect();
    let question = Question { updates, quarantine, ..Question::default() };
    converse(socket, &question, &mut io::stderr()).map(|(_, status)| status)
}

/// Asks the daemon and passes on what it says; the connection to it, and the status it decides on.
fn converse(
    socket: &Path,
    question: &Question,
    to: &mut impl Write,
) -> io::Result<(UnixStream, u8)> {
    let mut stream = UnixStream::connect(socket)?;
    let question = serde_json::to_vec(question)?;
    let len = u32::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), &question[..]].concat())?;
    loop {
        let mut len = [0; 4];
        stream.read_exact(&mut len)?;
        let len = u32::from_be_bytes(len);
        if len == END {
            let mut status = [0];
            stream.read_exact(&mut status)?;
            return Ok((stream, status[0]));
        }
        io::copy(&mut (&stream).take(len.into()), to)?;
        to.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_tells_a_hook_is_read_whole_or_not_at_all() {
        let longest = "x".repeat(UPDATES_LEN_MAX);
        assert_eq!(read_updates(longest.as_bytes()).unwrap(), Ok(longest.clone()));
        assert_eq!(read_updates((longest + "\u{e4}").as_bytes()).unwrap(), Err(TOO_LONG.into()));
        let said =
            read_updates(&b"0 1 refs/heads/a\n0 1 refs/heads/\xff\n"[..]).unwrap().unwrap_err();
        assert!(said.starts_with(r"The name refs/heads/\xff is not UTF-8"), "{said}");
    }

    #[test]
    fn a_daemon_that_has_ended_is_not_on_the_line() {
        let (ours, daemon) = UnixStream::pair().unwrap();
        assert!(is_on_the_line(&ours));
        drop(daemon);
        assert!(!is_on_the_line(&ours));
    }
}
