//! Who may push: the keys the controller knows.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use api::controller::Key;
use controller_client::Controller;
use tokio::{process::Command, sync::Mutex, time::timeout};
use tracing::warn;

use crate::domain::{key::Offered, user::is_plain};

/// A key found in an answer this young is not asked for again.
const FRESH: Duration = Duration::from_secs(5);
/// While the controller is away, an answer counts for so long.
const LAST_ANSWER: Duration = Duration::from_secs(60);
/// Longest time a checker of the operator's own may take.
const CHECKER_TIMEOUT: Duration = Duration::from_secs(20);

/// What is known about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may push.
    Known,
    /// Whoever decides has said that it may not.
    Unknown,
    /// Whoever decides cannot be asked.
    NoAnswer,
}

/// Decides about keys.
#[derive(Debug)]
pub(crate) enum Keyring {
    /// By the controller's list.
    Controller { controller: Controller, last: Mutex<Option<Answer>> },
    /// By a command of the operator's own.
    Command { words: Vec<String>, env: BTreeMap<String, String> },
}

/// The controller's list, and when it came.
#[derive(Debug)]
pub(crate) struct Answer {
    at: Instant,
    keys: Arc<[Key]>,
}

impl Keyring {
    pub(crate) async fn check(&self, user: &str, offered: &Offered) -> Verdict {
        match self {
            Self::Controller { controller, last } => by_controller(controller, last, offered).await,
            Self::Command { words, env } => by_command(words, env, user, offered).await,
        }
    }
}

/// A key that was just added is found, because only a fresh "known" is taken from the last answer.
async fn by_controller(
    controller: &Controller,
    last: &Mutex<Option<Answer>>,
    offered: &Offered,
) -> Verdict {
    // One asks, the others wait for its answer.
    let mut last = last.lock().await;
    let known = |answer: &Answer| answer.keys.iter().any(|key| is(key, offered));
    if last.as_ref().is_some_and(|answer| answer.at.elapsed() < FRESH && known(answer)) {
        return Verdict::Known;
    }
    match controller.keys().await {
        Ok(keys) => {
            let answer = last.insert(Answer { at: Instant::now(), keys: keys.into() });
            if known(answer) { Verdict::Known } else { Verdict::Unknown }
        }
        Err(err) => {
            warn!(
                error = &err as &dyn std::error::Error,
                "the controller cannot be asked for keys"
            );
            match last.as_ref().filter(|answer| answer.at.elapsed() < LAST_ANSWER) {
                Some(answer) if known(answer) => Verdict::Known,
                _ => Verdict::NoAnswer,
            }
        }
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
    // It is an argument, and every program with options has one that ends well: `--help`.
    if !is_plain(user) {
        return Verdict::Unknown;
    }
    let mut command = Command::new(program);
    command.args(args).arg(user).arg(&offered.line).env_clear().envs(env).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    match timeout(CHECKER_TIMEOUT, command.status()).await {
        Ok(Ok(status)) if status.success() => Verdict::Known,
        Ok(Ok(_)) => Verdict::Unknown,
        Ok(Err(err)) => {
            warn!(error = %err, "{program} cannot be run");
            Verdict::NoAnswer
        }
        Err(_) => Verdict::NoAnswer,
    }
}
