//! The hook that moves refs, by itself: run as git runs it, with a daemon that is the test.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::lone::script;

const ZERO: &str = "0000000000000000000000000000000000000000";
/// Notes each git that is run, and runs it.
const COUNTED: &str = r#"#!/bin/sh
echo "$@" >>"$0.log"
while [ "$1" = update-ref ] && [ -e "$0.hold" ]; do sleep 0.05; done
PATH=${PATH#*:} exec git "$@"
"#;

/// A repository, and the hook.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        bench.git(&["init", "-q", "--bare", "-b", "main", "."]);
        symlink(env!("CARGO_BIN_EXE_gitreceived"), bench.path("proc-receive")).unwrap();
        fs::create_dir(bench.path("bin")).unwrap();
        script(&bench.path("bin/git"), COUNTED);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.dir).env_clear().env("GIT_DIR", self.dir.path());
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), "me")
                .env(format!("GIT_{role}_EMAIL"), "me@home");
        }
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command
    }

    fn git(&self, args: &[&str]) -> String {
        let output = self.command(Path::new("git")).args(args).output().unwrap();
        assert!(output.status.success(), "git {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A commit of its own.
    fn commit(&self, message: &str) -> String {
        let tree = self.git(&["hash-object", "-t", "tree", "-w", "/dev/null"]);
        self.git(&["commit-tree", "-m", message, &tree])
    }

    /// Has the hook move refs; something happens between its question and the answer. What it says of each.
    fn moved(&self, commands: &[(&str, &str, &str)], meanwhile: impl FnOnce()) -> String {
        // As by the version before.
        self.moved_under("", commands, meanwhile)
    }

    /// The same, with terms that the daemon sets.
    fn moved_under(
        &self,
        terms: &str,
        commands: &[(&str, &str, &str)],
        meanwhile: impl FnOnce(),
    ) -> String {
        let listener = UnixListener::bind(self.path("socket")).unwrap();
        let mut hook = self
            .command(&self.path("proc-receive"))
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", self.path("bin").display()))
            .env("GITRECEIVED_SOCKET", self.path("socket"))
            .env("GITRECEIVED_ANSWERS", "stays")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = pkt_line("version=1\n") + "0000";
        input.extend(
            commands.iter().map(|(old, new, name)| pkt_line(&format!("{old} {new} {name}\n"))),
        );
        hook.stdin.take().unwrap().write_all((input + "0000").as_bytes()).unwrap();
        let (mut daemon, _) = listener.accept().unwrap();
        let mut len = [0; 4];
        daemon.read_exact(&mut len).unwrap();
        daemon.read_exact(&mut vec![0; u32::from_be_bytes(len) as usize]).unwrap();
        meanwhile();
        if !terms.is_empty() {
            let len = u32::try_from(terms.len()).unwrap();
            daemon.write_all(&[&len.to_be_bytes(), terms.as_bytes()].concat()).unwrap();
        }
        daemon.write_all(&[255, 255, 255, 255, 0]).unwrap();
        let output = hook.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::remove_file(self.path("socket")).unwrap();
        String::from_utf8([output.stderr, output.stdout].concat()).unwrap()
    }

    /// How many gits were run since this was asked last.
    fn gits(&self) -> usize {
        let log = fs::read_to_string(self.path("bin/git.log")).unwrap();
        fs::remove_file(self.path("bin/git.log")).unwrap();
        log.lines().count()
    }
}

fn pkt_line(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}

#[test]
fn a_hook_that_outlives_its_daemon_undoes_no_later_push() {
    let bench = Bench::new();
    let [first, ours, theirs] = ["first", "ours", "theirs"].map(|message| bench.commit(message));
    for name in ["old", "gone"] {
        bench.git(&["update-ref", &format!("refs/heads/{name}"), &first]);
    }
    let commands = [
        (&*first, &*ours, "refs/heads/old"),
        (&first, ZERO, "refs/heads/gone"),
        (ZERO, &ours, "refs/heads/new"),
        (ZERO, &ours, "refs/heads/free"),
    ];
    // Another push is taken and moves them.
    let names = ["old", "gone", "new"].map(|name| format!("refs/heads/{name}"));
    let said = bench.moved(&commands, || {
        names.iter().for_each(|name| drop(bench.git(&["update-ref", name, &theirs])));
    });
    for name in &names {
        let why = if name.ends_with("gone") { "it stays" } else { "somebody else moved it" };
        assert!(said.contains(&format!("ng {name} {why}")), "{said}");
        assert_eq!(bench.git(&["rev-parse", name]), theirs);
    }
    assert!(said.contains("ok refs/heads/free\n"), "{said}");
}

#[test]
fn many_refs_are_moved_by_few_gits_and_one_that_cannot_be_takes_no_others_with_it() {
    let bench = Bench::new();
    let commit = bench.commit("one");
    bench.git(&["symbolic-ref", "refs/heads/alias", "refs/heads/b0"]);
    let names: Vec<String> = (0..200).map(|n| format!("refs/heads/b{n}")).collect();
    let new: Vec<(&str, &str, &str)> = names.iter().map(|it| (ZERO, &*commit, &**it)).collect();
    let said = bench.moved(&new, || {});
    assert_eq!((said.matches("ok refs/heads/b").count(), bench.gits()), (200, 3), "{said}");
    bench.git(&["pack-refs", "--all"]);
    let gone: Vec<(&str, &str, &str)> = names.iter().map(|it| (&*commit, ZERO, &**it)).collect();
    // One is moved by somebody else meanwhile.
    let other = bench.commit("other");
    let said = bench.moved(&gone, || drop(bench.git(&["update-ref", "refs/heads/b77", &other])));
    assert_eq!(said.matches("ok refs/heads/b").count(), 199, "{said}");
    assert!(
        said.contains("ng refs/heads/b77 somebody else moved it") && bench.gits() < 20,
        "{said}"
    );
    assert_eq!(bench.git(&["for-each-ref", "--format=%(refname)"]), "refs/heads/b77");
}

#[test]
fn a_branch_follows_another_in_its_place_and_is_set_to_the_commit_of_a_tag() {
    let bench = Bench::new();
    let commit = bench.commit("one");
    bench.git(&["tag", "-a", "-m", "v1", "v1", &commit]);
    let tag = bench.git(&["rev-parse", "v1"]);
    bench.git(&["update-ref", "refs/heads/a", &commit]);
    let tree = bench.git(&["rev-parse", &format!("{commit}^{{tree}}")]);
    let commands = [
        (ZERO, &*tag, "refs/heads/a/b"),
        (&*commit, ZERO, "refs/heads/a"),
        (ZERO, &tree, "refs/heads/t"),
        (ZERO, &tag, "refs/tags/v2"),
    ];
    let said = bench.moved(&commands, || {});
    assert!(said.contains(&pkt_line(&format!("option new-oid {commit}\n"))), "{said}");
    assert!(said.contains("ng refs/heads/t it is no commit"), "{said}");
    assert_eq!(bench.git(&["rev-parse", "refs/heads/a/b"]), commit);
    assert_eq!(bench.git(&["rev-parse", "refs/tags/v2"]), tag);
}

#[test]
fn refs_are_moved_from_where_the_daemon_saw_them_and_none_goes_before_the_others_are_there() {
    let bench = Bench::new();
    let [first, ours, theirs] = ["first", "ours", "theirs"].map(|message| bench.commit(message));
    for name in ["old", "moved", "gone", "renamed"] {
        bench.git(&["update-ref", &format!("refs/heads/{name}"), &first]);
    }
    // Somebody else, before git ran the hook.
    bench.git(&["update-ref", "refs/heads/moved", &theirs]);
    bench.git(&["update-ref", "refs/heads/new", &theirs]);
    let seen: String = ["old", "moved", "renamed"]
        .map(|name| format!("\"refs/heads/{name}\":\"{first}\""))
        .join(",");
    let terms = format!("{{\"seen\":{{{seen}}},\"unmoved\":\"It is deployed.\"}}");
    let commands = [
        // As the pusher saw it, which is not what counts.
        (&*theirs, &*ours, "refs/heads/old"),
        (&first, &ours, "refs/heads/moved"),
        (ZERO, &ours, "refs/heads/new"),
        (&first, ZERO, "refs/heads/renamed"),
    ];
    let said = bench.moved_under(&terms, &commands, || {});
    assert!(said.starts_with("Not moved here: moved, new, renamed. It is deployed.\n"), "{said}");
    assert!(said.contains("ok refs/heads/old\n"), "{said}");
    for (name, why) in
        [("moved", "somebody else"), ("new", "somebody else"), ("renamed", "it stays")]
    {
        assert!(said.contains(&format!("ng refs/heads/{name} {why}")), "{said}");
    }
    for (name, at) in [("old", &ours), ("moved", &theirs), ("new", &theirs), ("renamed", &first)] {
        assert_eq!(&bench.git(&["rev-parse", &format!("refs/heads/{name}")]), at, "{name}");
    }
}

#[test]
fn who_has_the_right_next_sees_that_refs_are_still_moved() {
    let bench = Bench::new();
    let commit = bench.commit("one");
    let (refs, hold) = (bench.path("refs"), bench.path("bin/git.hold"));
    fs::write(&hold, "").unwrap();
    let watching = std::thread::spawn(move || {
        let refs = fs::File::open(refs).unwrap();
        for _ in 0..1200 {
            if refs.try_lock().is_err() {
                return fs::remove_file(hold).is_ok();
            }
            refs.unlock().unwrap();
            std::thread::park_timeout(Duration::from_millis(50));
        }
        fs::remove_file(hold).unwrap();
        false
    });
    let said = bench.moved(&[(ZERO, &commit, "refs/heads/main")], || {});
    assert!(watching.join().unwrap(), "nothing is locked: {said}");
    assert!(said.contains("ok refs/heads/main\n"), "{said}");
    assert!(fs::File::open(bench.path("refs")).unwrap().try_lock().is_ok());
}
