//! Running a buildpack's program.

use std::{
    io,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver, process::Command};

use crate::{
    console::Console,
    domain::output::{Lines, placed, without},
};

/// After so much silence a line says that the build goes on.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long what a program left in its pipe may take to be read, once the program has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// Bytes of a program's answer that are kept.
const MAX_ANSWER: u64 = 1 << 20;

/// Kills all of a program's processes when it goes.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Whoever the program left behind would keep its pipe, or the build's files, busy.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }
}

/// Runs a program to its end and shows what it writes, line by line, as it comes.
pub async fn shown(
    command: Command,
    console: &Console,
    heartbeat: Duration,
) -> io::Result<ExitStatus> {
    shown_without(command, console, heartbeat, &[]).await
}

/// The same, with stars in place of `secrets`.
pub async fn shown_without(
    mut command: Command,
    console: &Console,
    heartbeat: Duration,
    secrets: &[String],
) -> io::Result<ExitStatus> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.process_group(0).spawn()?;
    // It holds the writing ends.
    drop(command);
    let group = Group::of(&child);
    let mut output =
        Output { pipe: Receiver::from_owned_fd(reader.into())?, lines: Lines::default(), secrets };
    let start = Instant::now();
    let mut open = true;
    let status = loop {
        tokio::select! {
            more = output.show(console), if open => open = more?,
            () = tokio::time::sleep(heartbeat.saturating_sub(console.silence())) => {
                if console.silence() >= heartbeat {
                    console.say(&format!("... still working ({} s)", start.elapsed().as_secs()));
                }
            }
            status = child.wait() => break status?,
        }
    };
    drop(group);
    let rest = async {
        while open && output.show(console).await? {}
        Ok::<_, io::Error>(())
    };
    let _ = tokio::time::timeout(DRAIN, rest).await;
    if let Some(line) = output.lines.end() {
        console.line(&placed(&without(&line, secrets)));
    }
    Ok(status)
}

struct Output<'a> {
    pipe: Receiver,
    lines: Lines,
    secrets: &'a [String],
}

impl Output<'_> {
    /// Shows the next lines. False at the end.
    async fn show(&mut self, console: &Console) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let read = self.pipe.read(&mut buffer).await?;
        for line in self.lines.feed(&buffer[..read]) {
            console.line(&placed(&without(&line, self.secrets)));
        }
        Ok(read > 0)
    }
}

/// Runs a program to its end and answers with what it wrote to its stdout.
pub async fn answer(mut command: Command) -> io::Result<(ExitStatus, String)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.process_group(0).spawn()?;
    let group = Group::of(&child);
    let mut answer = Vec::new();
    let stdout = child.stdout.take();
    let status = {
        let mut read = std::pin::pin!(async {
            if let Some(stdout) = stdout {
                stdout.take(MAX_ANSWER).read_to_end(&mut answer).await?;
            }
            Ok::<_, io::Error>(())
        });
        tokio::select! {
            done = &mut read => {
                done?;
                child.wait().await?
            }
            status = child.wait() => {
                // One it left behind may keep the pipe open.
                let _ = tokio::time::timeout(DRAIN, read).await;
                status?
            }
        }
    };
    drop(group);
    Ok((status, String::from_utf8_lossy(&answer).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn whoever_stays_behind_does_not_hold_the_build_up() {
        let start = Instant::now();
        let command = shell("sleep 1000 & echo done; exit 3");
        let status = shown(command, &Console::default(), HEARTBEAT).await.unwrap();
        assert_eq!(status.code(), Some(3));
        assert!(start.elapsed() < Duration::from_secs(100));
    }

    #[tokio::test]
    async fn silence_is_broken() {
        let (console, begun) = (Console::default(), Instant::now());
        let status = shown(shell("sleep 1"), &console, Duration::from_millis(20)).await.unwrap();
        assert!(status.success());
        assert!(console.silence() < begun.elapsed(), "an unbroken silence is as long as the run");
    }

    #[tokio::test]
    async fn an_answer_does_not_wait_for_those_left_behind() {
        let (status, text) = answer(shell("sleep 1000 & echo Node.js")).await.unwrap();
        assert!(status.success());
        assert_eq!(text, "Node.js\n");
    }

    #[tokio::test]
    async fn floods_on_both_outputs_are_shown_to_their_end() {
        let flood = "head -c 3000000 /dev/zero | tr '\\0' e | fold >&2 & \
                     head -c 3000000 /dev/zero | tr '\\0' o | fold; wait";
        let status = shown(shell(flood), &Console::new(io::sink()), HEARTBEAT).await.unwrap();
        assert!(status.success());
    }

    #[tokio::test]
    async fn answers_are_bounded() {
        let (_, text) = answer(shell("head -c 3000000 /dev/zero")).await.unwrap();
        assert_eq!(text.len() as u64, MAX_ANSWER);
    }
}
