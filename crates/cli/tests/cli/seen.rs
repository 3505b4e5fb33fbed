//! What a person sees of an app: its log and its events, to their end; on a terminal, nothing that works on it.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

use api::controller::LogLine;

use crate::{fake::Fake, person::Person};

fn line(msg: &str) -> LogLine {
    LogLine {
        host_id: "host-1".into(),
        job_id: "host-1-00000000000000000000000000000000".into(),
        process_type: "web".into(),
        stream: "stdout".into(),
        msg: msg.into(),
        timestamp: "2026-11-23T12:00:00Z".parse().unwrap(),
    }
}

fn scene() -> (Fake, Person) {
    let fake = Fake::start();
    fake.world().deployed_app("myapp");
    let person = Person::of(&fake);
    (fake, person)
}

fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn following_ends_when_the_app_is_deleted() {
    for words in [&["log", "-f"][..], &["events", "-f"]] {
        let (fake, person) = scene();
        fake.world().log = vec![line("hello")];
        let mut command = person.command("timeout");
        command.args(["60", env!("CARGO_BIN_EXE_flynn"), "-a", "myapp"]).args(words);
        let mut following = spawn(command);
        let mut stdout = BufReader::new(following.stdout.take().unwrap());
        // It has begun to follow.
        let mut first = String::new();
        stdout.read_line(&mut first).unwrap();
        assert!(!first.is_empty(), "{words:?}");
        fake.world().apps.clear();
        let status = following.wait().unwrap();
        let mut stderr = String::new();
        following.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(
            (status.code(), stderr.as_str()),
            (Some(0), "the app was deleted\n"),
            "{words:?}"
        );
    }
}

#[test]
fn a_terminal_is_shown_colours_and_nothing_else_that_works_on_it() {
    let (fake, person) = scene();
    let said = "\x1b[31mred\x1b[2J\x07";
    fake.world().log = vec![line(said)];
    fake.world().apps[0].meta.insert("note".into(), said.into());
    let bin = env!("CARGO_BIN_EXE_flynn");
    for (words, piped) in [("log -r", said.to_owned()), ("meta", format!("note={said}"))] {
        let words: Vec<&str> =
            [&["-a", "myapp"], &words.split(' ').collect::<Vec<_>>()[..]].concat();
        assert_eq!(person.flynn(&words).ok().stdout, piped + "\n");
        let mut command = person.command("script");
        let typed = format!("{bin} {}", words.join(" "));
        command.args(["-qefc", &typed, "/dev/null"]).env("SHELL", "/bin/sh");
        let output = spawn(command).wait_with_output().unwrap();
        let screen = String::from_utf8(output.stdout).unwrap();
        assert!(screen.contains("\x1b[31mred\u{fffd}[2J\u{fffd}\x1b[0m"), "{screen:?}");
    }
}

#[test]
fn no_events_are_none() {
    let (_fake, person) = scene();
    let shown = |n: &str| person.flynn(&["-a", "myapp", "events", "-n", n]).ok().stdout;
    assert_eq!(shown("0"), "");
    assert_eq!(shown("1").lines().count(), 1);
}
