//! slugrunner as a process.

#![expect(clippy::unwrap_used, reason = "a test may fail that way")]

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

fn slug(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn runner(app: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slugrunner"));
    command.args(words).env("FLYNN_APP_DIR", app).stdin(Stdio::null());
    command
}

fn output(app: &Path, words: &[&str]) -> Output {
    runner(app, words).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap().trim_end()
}

/// Starts it and waits for the line `ready`.
fn started(app: &Path, words: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = runner(app, words).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "ready");
    (child, lines)
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_process_type_runs_in_the_slug_with_its_profile_in_order() {
    let app = slug(&[
        ("Procfile", "web: echo $A $B $C $PORT $(basename $HOME) $(basename $PWD) \"$X\"\n"),
        (".profile.d/1.sh", "export A=one B=one\n"),
        (".profile.d/2.sh", "export B=two\n"),
        (".profile.d/3.txt", "export B=three\n"),
        (".profile", "export X='a  b'\n"),
        (".release", r#"{"config_vars":{"C":"default","PORT":"1"}}"#),
    ]);
    let name = app.path().file_name().unwrap().to_str().unwrap().to_owned();
    let run = runner(app.path(), &["start", "web"]).env("PORT", "9").output().unwrap();
    assert_eq!(stdout(&run), format!("one two default 9 {name} {name} a  b"));
}

#[test]
fn the_apps_variables_are_its_own_and_a_procfile_from_windows_is_understood() {
    let app = slug(&[
        (
            "Procfile",
            "# a comment\r\n\r\nweb:   export FOO=\"a  b\"; printf '[%s]' \"$FOO\" '$PORT' \"port $PORT\" 'it'\"'\"'s' a=b=c # not an argument\r\n  # indented\r\nworker: echo \"$file $name $script\"",
        ),
        (".profile.d/1.sh", "export A=one\n"),
        (".profile.d/it's two.sh", "export B=two\n"),
    ]);
    let run = runner(app.path(), &["start", "web"]).env("PORT", "8080").output().unwrap();
    assert_eq!(stdout(&run), "[a  b][$PORT][port 8080][it's][a=b=c]");
    let mut worker = runner(app.path(), &["start", "worker"]);
    let run = worker.envs([("file", "f"), ("name", "n"), ("script", "s")]).output().unwrap();
    assert_eq!(stdout(&run), "f n s");
    assert_eq!(stdout(&output(app.path(), &["echo $A $B"])), "one two");
}

#[test]
fn a_slug_comes_on_stdin_or_from_a_url_where_there_is_none() {
    let slug = slug(&[("Procfile", "web: cat text; cat\n"), ("text", "from the slug\n")]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(slug.path()).arg("-czf").arg(file.path()).arg(".");
    assert!(tar.status().unwrap().success());
    let stdin = || Stdio::from(file.reopen().unwrap());

    let app = tempfile::tempdir().unwrap();
    let run = runner(app.path(), &["start", "web"]).stdin(stdin()).output().unwrap();
    assert_eq!(stdout(&run), "from the slug");
    // Now there is one: stdin is the app's.
    let run =
        runner(app.path(), &["cmp - /dev/stdin; cat | wc -c"]).stdin(stdin()).output().unwrap();
    assert!(run.status.success());

    let app = tempfile::tempdir().unwrap();
    let run =
        runner(app.path(), &["cat"]).stdin(Stdio::from(slug_file("no slug"))).output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&run.stderr).contains("no slug"), "{run:?}");

    let app = tempfile::tempdir().unwrap();
    let base = serve_once(std::fs::read(file.path()).unwrap());
    let mut web = runner(app.path(), &["start", "web"]);
    assert_eq!(stdout(&web.env("SLUG_URL", base).output().unwrap()), "from the slug");
    let app = tempfile::tempdir().unwrap();
    let mut web = runner(app.path(), &["start", "web"]);
    let run = web.env("SLUG_URL", "file:///etc/passwd").output().unwrap();
    assert!(String::from_utf8_lossy(&run.stderr).contains("SLUG_URL"), "{run:?}");
}

fn slug_file(text: &str) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file
}

/// Answers one request with a body; its address.
fn serve_once(body: Vec<u8>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/slug.tgz", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(connection.try_clone().unwrap());
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        std::io::Write::write_all(&mut connection, &[head.as_bytes(), &body].concat()).unwrap();
    });
    base
}

#[test]
fn where_there_is_no_slug_that_is_what_is_said() {
    let app = tempfile::tempdir().unwrap();
    for words in [["start", "web"], ["static", "."]] {
        let run = output(app.path(), &words);
        assert_eq!(run.status.code(), Some(1));
        assert!(
            String::from_utf8_lossy(&run.stderr).contains("there is no slug: give one"),
            "{run:?}"
        );
    }
    assert_eq!(stdout(&output(app.path(), &["echo", "needs none"])), "needs none");
}

#[test]
fn words_are_kept_apart_and_a_line_is_for_the_shell() {
    let app = slug(&[]);
    assert_eq!(
        stdout(&output(app.path(), &["printf", "%s|", "a b", "$HOME", "*"])),
        "a b|$HOME|*|"
    );
    assert_eq!(stdout(&output(app.path(), &["echo a | tr a b; echo 'c  d'"])), "b\nc  d");
}

#[test]
fn the_exit_status_is_the_commands() {
    let app = slug(&[("Procfile", "web: x\nworker: y\n")]);
    assert_eq!(output(app.path(), &["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(output(app.path(), &["kill -9 $$"]).status.code(), Some(137));
    assert_eq!(output(app.path(), &["no-such-program"]).status.code(), Some(127));
    let unknown = output(app.path(), &["start", "clock"]);
    assert_eq!(unknown.status.code(), Some(2));
    let said = String::from_utf8(unknown.stderr).unwrap();
    assert_eq!(said, "slugrunner: there is no process type \"clock\"; this app has: web, worker\n");
    let broken = slug(&[(".release", "---\n")]);
    assert_eq!(output(broken.path(), &["true"]).status.code(), Some(1));
}

#[test]
fn signals_reach_the_app_and_its_own_way_of_ending_counts() {
    let app = slug(&[(
        "Procfile",
        "web: trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done\n",
    )]);
    let (mut child, mut lines) = started(app.path(), &["start", "web"]);
    send(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.trim(), "bye");

    let (mut child, _lines) = started(app.path(), &["echo ready; sleep 100"]);
    send(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

#[test]
fn whoever_outlives_the_shell_may_finish_after_sigterm() {
    let app = slug(&[(
        "server",
        "trap 'sleep 0.3; echo finished; exit 0' TERM\necho ready\nwhile :; do sleep 0.02; done\n",
    )]);
    // The shell of a compound command dies at once.
    let (mut child, mut lines) = started(app.path(), &["true && bash server && true"]);
    send(&child, Signal::TERM);
    assert!(child.wait().unwrap().code().is_some());
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.trim(), "finished");
}

#[test]
fn orphans_are_reaped() {
    let app = slug(&[]);
    // The subshell's child becomes an orphan, ours, and ends while the command runs.
    let run = output(
        app.path(),
        &[
            "(sleep 0.05 & echo $! >orphan); pid=$(cat orphan); for i in $(seq 200); do [ -e /proc/$pid ] || { echo gone; exit; }; sleep 0.02; done; cat /proc/$pid/status",
        ],
    );
    assert_eq!(stdout(&run), "gone");
}
