//! `flynn run` against a job that speaks attach frames.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use api::controller::{JobState, NewJob};
use attach::{Frame, FrameCodec, Stream};
use axum::{
    Json,
    extract::{FromRequest, Path, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use rustix::fs::{OFlags, fcntl_setfl};
use tokio_util::codec::Framed;

use crate::{fake::Fake, person::Person, world::World};

type Connection = Framed<TokioIo<hyper::upgrade::Upgraded>, FrameCodec>;

/// `POST /apps/:app/jobs` of the fake.
pub(crate) async fn run_job(
    State(world): State<Arc<Mutex<World>>>,
    Path(_): Path<String>,
    mut request: Request,
) -> Response {
    let upgrade = request.headers().get(header::UPGRADE).is_some_and(|v| v == "flynn-attach/0");
    let upgraded = upgrade.then(|| hyper::upgrade::on(&mut request));
    let Json(new) = Json::<NewJob>::from_request(request, &()).await.unwrap();
    let args = new.args.clone();
    let job = {
        let mut world = world.lock().unwrap();
        let app = world.apps[0].id;
        let release = new.release.unwrap();
        world.new_jobs.push(new);
        world.add_job(app, release, "", JobState::Up);
        world.jobs.last().cloned()
    };
    let Some(upgraded) = upgraded else { return Json(job).into_response() };
    let conversation = async move {
        let Ok(connection) = upgraded.await else { return };
        let mut connection = Framed::new(TokioIo::new(connection), FrameCodec);
        // Whoever leaves early leaves.
        let _ = converse(&mut connection, &args[0]).await;
        // As the host does: a connection that is closed with something unread is reset, and what was sent last is lost.
        let _ = connection.close().await;
        while let Some(Ok(_)) = connection.next().await {}
    };
    tokio::spawn(conversation);
    let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "flynn-attach/0")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

fn data(stream: Stream, text: impl Into<Bytes>) -> Frame {
    Frame::Data { stream, bytes: text.into() }
}

/// What the fake's jobs do, by their command.
async fn converse(job: &mut Connection, command: &str) -> Result<(), attach::FrameError> {
    match command {
        "fail" => {
            job.send(data(Stream::Stdout, "out\n")).await?;
            job.send(data(Stream::Stderr, "err\n")).await?;
            job.send(Frame::eof(Stream::Stdout)).await?;
            job.send(Frame::Exit(7)).await
        }
        "cut" => job.send(data(Stream::Stdout, "half")).await,
        // Gives everything back until stdin ends.
        "cat" => {
            while let Some(Ok(Frame::Data { stream: Stream::Stdin, bytes })) = job.next().await {
                if bytes.is_empty() {
                    break;
                }
                job.send(data(Stream::Stdout, bytes)).await?;
            }
            job.send(Frame::Exit(0)).await
        }
        "endless" => loop {
            job.send(data(Stream::Stdout, "y\n".repeat(8192))).await?;
        },
        // Talks until it is told to end, and ends with a status that says by which signal.
        "talker" | "complainer" => loop {
            let stream = if command == "talker" { Stream::Stdout } else { Stream::Stderr };
            job.send(data(stream, "y\n")).await?;
            match job.next().now_or_never() {
                Some(Some(Ok(Frame::Signal(number)))) => {
                    return job.send(Frame::Exit(40 + number)).await;
                }
                Some(None) => return Ok(()),
                _ => tokio::task::yield_now().await,
            }
        },
        // Complains, and ends, if it is not told to.
        "grumbler" => {
            for _ in 0..10 {
                job.send(data(Stream::Stderr, "y\n")).await?;
            }
            match tokio::time::timeout(Duration::from_secs(1), job.next()).await {
                Ok(Some(Ok(Frame::Signal(number)))) => job.send(Frame::Exit(40 + number)).await,
                _ => job.send(Frame::Exit(6)).await,
            }
        }
        // Says more than a terminal holds, and ends.
        "brief" => {
            for _ in 0..100 {
                job.send(data(Stream::Stdout, "y\n".repeat(8192))).await?;
            }
            job.send(Frame::Exit(5)).await
        }
        "deaf" => {
            job.send(data(Stream::Stdout, "ready\r\n")).await?;
            std::future::pending().await
        }
        _ => repeat(job).await,
    }
}

/// Says what it is told until it is told to end.
async fn repeat(job: &mut Connection) -> Result<(), attach::FrameError> {
    job.send(data(Stream::Stdout, "ready\r\n")).await?;
    while let Some(Ok(frame)) = job.next().await {
        let said = match frame {
            Frame::Signal(number) => return job.send(Frame::Exit(128 + number)).await,
            Frame::Resize { height, width } => format!("size {height}x{width}\r\n"),
            Frame::Data { bytes, .. } if &bytes[..] == b"q" => {
                return job.send(Frame::Exit(3)).await;
            }
            Frame::Data { bytes, .. } => format!("key {bytes:?}\r\n"),
            Frame::Exit(_) => continue,
        };
        job.send(data(Stream::Stdout, said)).await?;
    }
    Ok(())
}

fn started() -> (Fake, Person) {
    let fake = Fake::start();
    fake.world().deployed_app("myapp");
    let person = Person::of(&fake);
    (fake, person)
}

#[test]
fn the_exit_status_of_the_job_is_ours_and_its_streams_stay_apart() {
    let (fake, person) = started();
    let outcome = person.flynn(&["-a", "myapp", "run", "--", "fail", "-x"]);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()),
        (Some(7), "out\n", "err\n")
    );
    let world = fake.world();
    let new = &world.new_jobs[0];
    assert_eq!(new.args, ["fail", "-x"]);
    assert!(new.release_env && !new.tty && new.env.is_empty());
    assert_eq!(new.release, world.apps[0].release);
}

#[test]
fn stdin_reaches_the_job_to_its_end() {
    let (_fake, person) = started();
    let input = "line\n".repeat(100_000);
    let outcome = person.flynn_with(&["run", "-a", "myapp", "cat"], &[], &input).ok();
    assert_eq!(outcome.stdout.len(), input.len());
    assert!(outcome.stdout == input);
}

#[test]
fn a_stdin_that_cannot_be_read_is_not_one_that_ended() {
    let (_fake, person) = started();
    let folder = std::fs::File::open("/").unwrap();
    let mut command = person.command(bin());
    command.args(["-a", "myapp", "run", "cat"]).stdin(folder);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.contains("reading stdin")), (Some(1), true), "{said}");
}

/// Runs a command with a terminal as stdin, which goes away when it has said the first line.
const HANGING_UP: &str = "
import os, pty, subprocess, sys
keyboard, terminal = pty.openpty()
child = subprocess.Popen(sys.argv[1:], stdin=terminal, stdout=subprocess.PIPE)
os.close(terminal)
os.write(keyboard, b'hello\\n')
print(child.stdout.readline().decode().strip())
os.close(keyboard)
sys.exit(child.wait())
";

#[test]
fn a_terminal_that_goes_away_has_ended() {
    let (_fake, person) = started();
    let mut command = person.command("python3");
    command.args(["-c", HANGING_UP, bin(), "-a", "myapp", "run", "cat"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"hello\n"[..]), "{said}");
}

/// Runs a command on a terminal that is not its controlling one, and goes away when the command has written to it. It is what the
/// second word names.
const VANISHING: &str = "
import os, pty, signal, subprocess, sys
screen, terminal = pty.openpty()
if sys.argv[1] == 'nohup':
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
streams = dict.fromkeys(sys.argv[2].split(','), terminal)
child = subprocess.Popen(sys.argv[3:], stdin=subprocess.DEVNULL, restore_signals=False, **streams)
os.close(terminal)
os.read(screen, 1)
os.close(screen)
sys.exit(child.wait())
";

#[test]
fn a_job_that_writes_to_a_terminal_that_goes_away_is_told() {
    let (_fake, person) = started();
    // The one ends when it hears of it, the other not at all; under nohup nobody is told.
    for (job, how, terminal, status) in [
        ("talker", "plain", "stdout", 41),
        ("endless", "plain", "stdout", 129),
        ("brief", "nohup", "stdout", 5),
        ("complainer", "plain", "stderr", 41),
        ("complainer", "plain", "stdout,stderr", 41),
    ] {
        let mut command = person.command("python3");
        command.args(["-c", VANISHING, how, terminal, bin(), "-a", "myapp", "run", job]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(status), ""), "{job}");
    }
}

/// Runs a command in the background of a terminal that stops who writes to it from there, when nobody is left who could bring it
/// to the foreground: what it writes is refused, and the terminal is there.
const ORPHANED: &str = "
import os, pty, subprocess, sys, termios
pid, screen = pty.fork()
if pid == 0:
    mode = termios.tcgetattr(1)
    mode[3] |= termios.TOSTOP
    termios.tcsetattr(1, termios.TCSANOW, mode)
    ours, theirs = os.pipe()
    ended, ending = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.setpgid(0, 0)
            os.read(ours, 1)
            done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=1)
            open('status', 'w').write(str(done.returncode))
            os._exit(0)
        os._exit(0)
    os.wait()
    os.close(ending)
    os.write(theirs, b'x')
    os.read(ended, 1)
    os._exit(0)
os.waitpid(pid, 0)
";

#[test]
fn a_terminal_that_refuses_what_is_written_has_not_gone_away() {
    let (_fake, person) = started();
    let mut command = person.command("python3");
    command.args(["-c", ORPHANED, bin(), "-a", "myapp", "run", "grumbler"]);
    assert!(command.status().unwrap().success());
    assert_eq!(std::fs::read_to_string(person.path().join("status")).unwrap(), "6");
}

#[test]
fn a_stdin_that_does_not_block_is_waited_for() {
    let (_fake, person) = started();
    let (stdin, mut keys) = std::io::pipe().unwrap();
    fcntl_setfl(&stdin, OFlags::NONBLOCK).unwrap();
    let mut command = person.command(bin());
    command.args(["-a", "myapp", "run", "wait"]).stdin(stdin).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    // It reads again before the next key comes, which is not before the job has told of this one.
    for key in ["a", "b", "c"] {
        keys.write_all(key.as_bytes()).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), format!("key b\"{key}\""));
    }
    keys.write_all(b"q").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn a_stdout_that_does_not_block_is_waited_for() {
    let (_fake, person) = started();
    let (screen, stdout) = std::io::pipe().unwrap();
    fcntl_setfl(&stdout, OFlags::NONBLOCK).unwrap();
    let mut command = person.command(bin());
    command.args(["-a", "myapp", "run", "endless"]).stdin(Stdio::null()).stdout(stdout);
    let mut child = command.spawn().unwrap();
    drop(command);
    // Far more than a pipe holds, and more slowly than it comes.
    let mut lines = BufReader::with_capacity(100, screen).lines();
    for _ in 0..500_000 {
        assert_eq!(lines.next().expect("it goes on").unwrap(), "y");
    }
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_connection_that_breaks_is_not_a_success() {
    let (_fake, person) = started();
    let outcome = person.flynn(&["-a", "myapp", "run", "cut"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), "half"));
    assert!(outcome.stderr.contains("lost before it ended"), "{outcome:?}");
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_silently() {
    let (_fake, person) = started();
    let line = format!("{} -a myapp run endless | head -c 4; echo ${{PIPESTATUS[0]}}", bin());
    let output = person.command("bash").args(["-c", &line]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "y\ny\n0\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// The exit status of `flynn run` that is sent a signal once its job is ready.
fn signalled(person: &Person, job: &str, stdin: Stdio, signal: &str) -> Option<i32> {
    let mut command = person.command(bin());
    command.args(["-a", "myapp", "run", job]).stdin(stdin).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Until the end: it may be written to.
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\r\n");
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    child.wait().unwrap().code()
}

#[test]
fn without_a_terminal_signals_are_the_job_s() {
    let (_fake, person) = started();
    for (name, status) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("QUIT", 131)] {
        assert_eq!(signalled(&person, "wait", Stdio::piped(), name), Some(status), "{name}");
    }
}

#[test]
fn a_terminal_that_goes_away_ends_it_though_the_job_does_not_read_its_stdin() {
    let (_fake, person) = started();
    let endless = std::fs::File::open("/dev/zero").unwrap();
    assert_eq!(signalled(&person, "deaf", endless.into(), "HUP"), Some(129));
}

#[test]
fn a_detached_job_s_id_is_printed() {
    let (fake, person) = started();
    let outcome = person.flynn(&["-a", "myapp", "run", "-d", "wait"]).ok();
    assert_eq!(outcome.stdout.trim(), fake.world().jobs.last().unwrap().id);
}

#[test]
fn before_the_first_push_there_is_nothing_to_run() {
    let (fake, person) = started();
    fake.world().add_app("empty");
    let err = person.flynn(&["-a", "empty", "run", "cat"]).failed();
    assert!(err.contains("git push flynn master"), "{err}");
    assert!(fake.world().new_jobs.is_empty());
}

/// On a terminal of its own, made by `script`, which says its size and mode before and after.
#[test]
fn on_a_terminal_keys_and_size_are_the_job_s_and_the_terminal_is_restored() {
    let (fake, person) = started();
    let line = format!(
        "stty rows 30 cols 100; stty -g > before; {} -a myapp run shell; echo \"status $?\"; stty -g > after",
        bin()
    );
    let mut child = person
        .command("script")
        .args(["-qefc", &line, "/dev/null"])
        .env("TERM", "vt100")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut seen = read_until(&mut screen, "size 30x100");
    // Ctrl-C is a key, not a signal.
    keys.write_all(b"\x03").unwrap();
    seen += &read_until(&mut screen, "key b\"\\x03\"");
    keys.write_all(b"q").unwrap();
    seen += &read_until(&mut screen, "status 3");
    drop(keys);
    child.wait().unwrap();
    let mode = |file| std::fs::read_to_string(person.path().join(file)).unwrap();
    assert_eq!(mode("before"), mode("after"), "{seen}");
    let world = fake.world();
    let new = &world.new_jobs[0];
    assert!(new.tty);
    assert_eq!((new.tty_lines, new.tty_columns), (30, 100));
    assert_eq!(new.env["TERM"], "vt100");
    assert_eq!(new.env["COLUMNS"], "100");
}

#[test]
fn a_terminal_is_restored_when_a_signal_ends_us() {
    let (_fake, person) = started();
    let line = format!(
        "stty -g > before; {} -a myapp run shell; echo \"status $?\"; stty -g > after",
        bin()
    );
    let mut child = person
        .command("script")
        .args(["-qefc", &line, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let keys = child.stdin.take();
    let mut screen = child.stdout.take().unwrap();
    read_until(&mut screen, "ready");
    let home = person.path().to_str().unwrap();
    let pid = flynn_in(home);
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    read_until(&mut screen, "status 143");
    drop(keys);
    child.wait().unwrap();
    let mode = |file| std::fs::read_to_string(person.path().join(file)).unwrap();
    assert_eq!(mode("before"), mode("after"));
}

/// The process of the `flynn` that runs in a folder.
fn flynn_in(folder: &str) -> String {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ours = processes.map(|entry| entry.path()).find(|path| {
        let exe = std::fs::read_link(path.join("exe")).ok();
        let cwd = std::fs::read_link(path.join("cwd")).ok();
        exe.as_deref() == Some(std::path::Path::new(bin()))
            && cwd.as_deref() == Some(std::path::Path::new(folder))
    });
    ours.unwrap().file_name().unwrap().to_string_lossy().into_owned()
}

fn read_until(screen: &mut impl Read, text: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(text) {
        assert_eq!(
            screen.read(&mut byte).unwrap(),
            1,
            "waited for {text:?}, saw {:?}",
            String::from_utf8_lossy(&seen)
        );
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

fn bin() -> &'static str {
    env!("CARGO_BIN_EXE_flynn")
}
