//! Waiting for a turn to build, and keeping it.

use std::{future::Future, time::Duration};

use controller_client::Controller;
use tokio::time::{Instant, sleep, timeout};

use crate::{Console, Failure, settings::ordinal};

/// How often a build that waits asks.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How often one that runs says that it does. The controller forgets it after six of these.
const KEEP_INTERVAL: Duration = Duration::from_secs(10);
/// Longest wait. A build has 15 minutes, so a few may be before this one.
const WAIT_TIMEOUT: Duration = Duration::from_secs(45 * 60);
/// Longest time to give a turn back; it ends by itself otherwise.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits for a turn, runs `build` in it, and gives it back.
pub(crate) async fn in_turn<T>(
    controller: &Controller,
    id: &str,
    app: &str,
    console: &Console,
    build: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let is_kept = wait(controller, id, app, console).await?;
    let outcome = tokio::select! {
        outcome = build => outcome,
        never = keep(controller, id, app), if is_kept => match never {},
    };
    if is_kept {
        let _ = timeout(END_TIMEOUT, controller.end_build_turn(id)).await;
    }
    outcome
}

/// Answers whether there are turns at all: a controller of the version before knows none.
async fn wait(
    controller: &Controller,
    id: &str,
    app: &str,
    console: &Console,
) -> Result<bool, Failure> {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let mut told = 0;
    loop {
        match controller.build_turn(id, app).await {
            Ok(turn) if turn.place == 0 => return Ok(true),
            Ok(turn) if turn.place != told => {
                told = turn.place;
                let place = ordinal(told);
                console.line(&format!("Other apps are being built; you are {place} in the queue."));
            }
            Ok(_) => {}
            Err(err) if err.is_not_found() => return Ok(false),
            Err(err) if err.is_retryable() => {}
            Err(err) => return Err(Failure::controller("Waiting for a turn to build")(err)),
        }
        if Instant::now() >= deadline {
            let why =
                format!("its turn did not come within {} minutes", WAIT_TIMEOUT.as_secs() / 60);
            return Err(Failure::Lost(why));
        }
        sleep(ASK_INTERVAL).await;
    }
}

/// Keeps a turn, for ever. That the controller is away for a while ends no build.
async fn keep(controller: &Controller, id: &str, app: &str) -> std::convert::Infallible {
    loop {
        sleep(KEEP_INTERVAL).await;
        let _ = controller.build_turn(id, app).await;
    }
}
