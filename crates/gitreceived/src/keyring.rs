//! Who may push: the keys the controller knows.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use api::controller::Key;
use controller_client::Controller;
use tokio::{
    process::Command,
    time::{sleep_until, timeout},
};
use tracing::warn;

use crate::{
    domain::{key::Offered, reach::Reach, user::is_plain},
    git::Group,
    turns::Turns,
};

/// A key found in an answer this young is not asked for again.
const FRESH: Duration = Duration::from_secs(5);
/// While the controller is away, an answer counts for so long.
const LAST_ANSWER: Duration = Duration::from_secs(60);
/// Pause between two questions to the controller.
const PACE: Duration = Duration::from_millis(200);
/// Longest time a checker of the operator's own may take.
const CHECKER_TIMEOUT: Duration = Duration::from_secs(20);

/// What is known about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may push, to these.
    Known(Reach),
    /// Whoever decides has said that it may not.
    Unknown,
    /// Whoever decides cannot be asked.
    NoAnswer,
}

/// Decides about keys.
#[derive(Debug)]
pub(crate) enum Keyring {
    /// By the controller's list.
    Controller(Listed),
    /// By a command of the operator's own.
    Command { words: Vec<String>, env: BTreeMap<String, String>, turns: Turns },
}

/// The keys the controller lists.
#[derive(Debug)]
pub(crate) struct Listed {
    controller: Controller,
    known: Mutex<Known>,
    /// Held by the one who asks; the others wait for that answer.
    asking: tokio::sync::Mutex<()>,
}

/// What the controller said last.
#[derive(Debug, Default)]
struct Known {
    answer: Option<Answer>,
    /// When it was asked last without an answer.
    failed: Option<Instant>,
}

/// The controller's list, and when it was asked for.
#[derive(Debug, Clone)]
struct Answer {
    asked: Instant,
    keys: Arc<[Key]>,
}

impl Answer {
    fn reach(&self, offered: &Offered) -> Option<Reach> {
        self.keys.iter().find(|key| is(key, offered)).map(Reach::of)
    }
}

impl Keyring {
    pub(crate) fn by_controller(controller: Controller) -> Self {
        Self::Controller(Listed {
            controller,
            known: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn by_command(words: Vec<String>, env: BTreeMap<String, String>) -> Self {
        Self::Command { words, env, turns: Turns::default() }
    }

    /// What a key that is not known can do about it.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Controller { .. } => ". To add it: flynn key-add",
            Self::Command { .. } => ".",
        }
    }

    /// Decides about a key of a connection that has been open since `since`: that it is unknown must have been said
    /// later than that, so that one just added is found, and a client with many keys costs one question.
    pub(crate) async fn check(
        &self,
        user: &str,
        offered: &Offered,
        since: Instant,
        source: IpAddr,
    ) -> Verdict {
        // A user is an argument of a program, and every program with options has one that ends well: `--help`.
        if !is_plain(user) {
            return Verdict::Unknown;
        }
        match self {
            Self::Controller(listed) => listed.check(offered, since).await,
            Self::Command { words, env, turns } => {
                let _turn = turns.take(source).await;
                by_command(words, env, user, offered).await
            }
        }
    }
}

impl Listed {
    async fn check(&self, offered: &Offered, since: Instant) -> Verdict {
        // Who is known waits for nobody.
        if let Some(verdict) = self.decide(offered, since) {
            return verdict;
        }
        let _turn = self.asking.lock().await;
        if let Some(verdict) = self.decide(offered, since) {
            return verdict;
        }
        let last = {
            let known = self.known();
            known.answer.as_ref().map(|answer| answer.asked).max(known.failed)
        };
        if let Some(last) = last {
            // However many strangers come, the controller is not asked more often.
            sleep_until((last + PACE).into()).await;
        }
        let asked = Instant::now();
        let keys = self.controller.keys().await;
        let mut known = self.known();
        match keys {
            Ok(keys) => known.answer = Some(Answer { asked, keys: keys.into() }),
            Err(err) => {
                warn!(
                    error = &err as &dyn std::error::Error,
                    "the controller cannot be asked for keys"
                );
                known.failed = Some(asked);
            }
        }
        drop(known);
        self.decide(offered, since).unwrap_or(Verdict::NoAnswer)
    }

    /// Decides by what the controller said last, if that is enough.
    fn decide(&self, offered: &Offered, since: Instant) -> Option<Verdict> {
        let known = self.known();
        let answer = known.answer.as_ref();
        if let Some(answer) = answer {
            let reach = answer.reach(offered);
            if answer.asked >= since || (answer.asked.elapsed() < FRESH && reach.is_some()) {
                return Some(reach.map_or(Verdict::Unknown, Verdict::Known));
            }
        }
        // It was asked, and did not answer.
        known.failed.filter(|failed| *failed >= since)?;
        let last = answer.filter(|answer| answer.asked.elapsed() < LAST_ANSWER);
        let reach = last.and_then(|answer| answer.reach(offered));
        Some(reach.map_or(Verdict::NoAnswer, Verdict::Known))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is(key: &Key, offered: &Offered) -> bool {
    key.fingerprint == offered.fingerprint && key.key.trim() == offered.line
}

async fn by_command(
    words: &[String],
    env: &BTreeMap<String, String>,
    user: &str,
    offered: &Offered,
) -> Verdict {
    let [program, args @ ..] = words else { return Verdict::NoAnswer };
    let mut command = Command::new(program);
    command.args(args).arg(user).arg(&offered.line).env_clear().envs(env).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    let checked = async {
        let mut child = command.spawn()?;
        // It ends with all that it started, whether it has answered or not.
        let _group = Group::of(&child);
        child.wait().await
    };
    match timeout(CHECKER_TIMEOUT, checked).await {
        Ok(Ok(status)) if status.success() => Verdict::Known(Reach::All),
        Ok(Ok(_)) => Verdict::Unknown,
        Ok(Err(err)) => {
            warn!(error = %err, "{program} cannot be run");
            Verdict::NoAnswer
        }
        Err(_) => Verdict::NoAnswer,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn what_a_checker_leaves_behind_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let script = "sleep 600 & echo $! >$0/pid; exit 1";
        let place = dir.path().display().to_string();
        let words = ["sh", "-c", script, &place].map(str::to_owned);
        let env = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
        let offered = Offered { fingerprint: "f".into(), line: "ssh-ed25519 AAAA".into() };
        assert_eq!(by_command(&words, &env, "git", &offered).await, Verdict::Unknown);
        let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
        testkit::wait_until("it has ended", async || {
            // That of one which nobody has waited for yet is empty.
            let words = fs::read_to_string(format!("/proc/{}/cmdline", pid.trim()));
            words.ok().filter(|words| !words.is_empty()).map_or(Ok(()), Err)
        })
        .await;
    }
}
