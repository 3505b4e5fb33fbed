//! Being the first process of a container.

use std::{
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{self, ExitCode},
    time::Duration,
};

use anyhow::Context;
use api::slug::{PROCFILE, RELEASE_FILE};
use rustix::{
    process::{Pid, Signal, WaitOptions, WaitStatus},
    termios::{Winsize, tcgetwinsize, tcsetwinsize},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use crate::domain::{Command, Slug, SlugError};

/// How long processes that outlive the app's first one may take to end, once the app was asked to.
const LINGER: Duration = Duration::from_secs(30);

/// Signals that are passed on, and whether they ask the app to end.
const FORWARDED: [(Signal, bool); 7] = [
    (Signal::TERM, true),
    (Signal::INT, true),
    (Signal::QUIT, true),
    (Signal::HUP, false),
    (Signal::USR1, false),
    (Signal::USR2, false),
    (Signal::WINCH, false),
];

/// Reads what a slug says of itself.
pub fn read_slug(app_dir: &Path) -> Result<Slug, SlugError> {
    std::fs::read_dir(app_dir)
        .map_err(|source| SlugError::NoDirectory(app_dir.display().to_string(), source))?;
    let read = |name: &'static str| match std::fs::read(app_dir.join(name)) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(err) => Err(SlugError::Unread(name, err)),
    };
    Slug::parse(&read(PROCFILE)?, &read(RELEASE_FILE)?).map_err(SlugError::Release)
}

/// Runs a command to its end, and answers with its status.
pub async fn run(
    app_dir: &Path,
    slug: &Slug,
    command: &Command,
    terminal_size: Option<(u16, u16)>,
) -> anyhow::Result<ExitCode> {
    // Orphans become our children also where we are not the first process.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let on_terminal = rustix::termios::isatty(io::stdin());
    if let Some((ws_row, ws_col)) = terminal_size.filter(|_| on_terminal) {
        size_terminal(Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 });
    }
    let mut children = signal(SignalKind::child()).context("watching for children that end")?;
    let mut signals = listen().context("listening for signals")?;
    let mut shell = shell(app_dir, slug, command);
    // On a terminal the shell and its jobs manage process groups themselves. Elsewhere the app gets one of its own, so
    // that a signal reaches all of it and not us.
    if !on_terminal {
        shell.process_group(0);
    }
    let child = shell.spawn().context("starting bash")?;
    let app = App { pid: pid(&child), on_terminal };

    let mut status = None;
    let mut ending = false;
    let mut give_up = std::pin::pin!(tokio::time::sleep(LINGER));
    loop {
        tokio::select! {
            _ = children.recv() => {
                let reaped = reap(app.pid);
                if status.is_none() && reaped.status.is_some() {
                    status = reaped.status;
                    give_up.as_mut().reset(Instant::now() + LINGER);
                }
                if let Some(status) = status && (reaped.none_left || !ending) {
                    return Ok(ExitCode::from(status));
                }
            }
            () = give_up.as_mut(), if status.is_some() => {
                return Ok(ExitCode::from(status.unwrap_or_default()));
            }
            Some((signal, ends)) = signals.recv() => {
                ending |= ends;
                app.signal(signal);
            }
        }
    }
}

/// Gives our terminal a size, unless it has one. Engines set it a moment after the start, which is too late for what asks
/// at once.
fn size_terminal(size: Winsize) {
    let stdin = io::stdin();
    if tcgetwinsize(&stdin).is_ok_and(|there| there.ws_row == 0 && there.ws_col == 0) {
        let _ = tcsetwinsize(&stdin, size);
    }
}

/// The shell that prepares the environment and becomes the command.
fn shell(app_dir: &Path, slug: &Slug, command: &Command) -> process::Command {
    let mut shell = process::Command::new("bash");
    shell.current_dir(app_dir).env("HOME", app_dir);
    shell.envs(slug.defaults(|name| std::env::var_os(name).is_some()));
    let prepare = prepare(app_dir);
    match command {
        Command::Line(line) => {
            shell.arg("-c").arg(prepare + "exec bash -c \"$0\"").arg(line);
        }
        Command::Words(words) => {
            shell.arg("-c").arg(prepare + "exec -- \"$0\" \"$@\"").args(words);
        }
    }
    shell
}

/// What the shell does before the command takes its place: sources the profile. It has no variables of its own, which an
/// app could have meant for itself.
fn prepare(app_dir: &Path) -> String {
    let mut files: Vec<_> = std::fs::read_dir(app_dir.join(".profile.d"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".sh") && !name.starts_with('.'))
        .collect();
    files.sort();
    let mut script = String::new();
    for name in files {
        script.push_str(&format!(". './.profile.d/{}'\n", name.replace('\'', r"'\''")));
    }
    script + "if [ -f .profile ]; then . ./.profile; fi\n"
}

fn pid(child: &process::Child) -> Pid {
    Pid::from_child(child)
}

/// The app's first process.
struct App {
    pid: Pid,
    on_terminal: bool,
}

impl App {
    /// Passes a signal on. Processes that have ended already are no error.
    fn signal(&self, signal: Signal) {
        if !self.on_terminal {
            let _ = rustix::process::kill_process_group(self.pid, signal);
            return;
        }
        // The terminal sends these to whoever is in front of it.
        if signal == Signal::INT || signal == Signal::QUIT || signal == Signal::WINCH {
            return;
        }
        let _ = rustix::process::kill_process(self.pid, signal);
        // An interactive shell ignores SIGTERM, but not the end of its terminal.
        if signal == Signal::TERM {
            let _ = rustix::process::kill_process(self.pid, Signal::HUP);
            let _ = rustix::process::kill_process(self.pid, Signal::CONT);
        }
    }
}

/// All forwarded signals in one channel, of which a few may be waiting.
fn listen() -> io::Result<tokio::sync::mpsc::Receiver<(Signal, bool)>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    for (which, ends) in FORWARDED {
        let mut caught = signal(SignalKind::from_raw(which.as_raw()))?;
        let sender = sender.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the process, as its signals do")]
        tokio::spawn(async move {
            while caught.recv().await.is_some() {
                if sender.send((which, ends)).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

/// What a round of reaping found.
#[derive(Debug, Default)]
struct Reaped {
    /// Exit status of the app's first process, if it was among them.
    status: Option<u8>,
    /// No child is left, neither running nor ended.
    none_left: bool,
}

fn reap(app: Pid) -> Reaped {
    let mut reaped = Reaped::default();
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == app => reaped.status = Some(exit_status(status)),
            Ok(Some(_)) => {}
            Ok(None) => return reaped,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => {
                reaped.none_left = true;
                return reaped;
            }
        }
    }
}

fn exit_status(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}
