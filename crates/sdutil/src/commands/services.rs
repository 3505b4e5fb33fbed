//! Looking.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is what the commands are for")]

use std::{process::ExitCode, time::Duration};

use discoverd_client::Discoverd;
use tokio::time::timeout;

/// How long an instance is waited for.
const WAIT: Duration = Duration::from_secs(1);

/// Whether discoverd answers.
pub(super) async fn check(discoverd: &Discoverd, silent: bool) -> ExitCode {
    let said = discoverd.client().without_retries().get::<Vec<String>>("/services").await;
    match said {
        Ok(_) => ExitCode::SUCCESS,
        Err(err) => {
            if !silent {
                eprintln!("discoverd does not answer: {err}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Prints the addresses of a service, oldest first.
pub(super) async fn print(
    discoverd: &Discoverd,
    service: &str,
    one: bool,
) -> anyhow::Result<ExitCode> {
    let mut watch = discoverd.watch(service);
    let found = timeout(WAIT, watch.wait_for(|set| !set.instances.is_empty())).await;
    let Ok(set) = found else {
        anyhow::bail!("no instance of {service} is registered (waited for {WAIT:?})");
    };
    let most = if one { 1 } else { usize::MAX };
    for instance in set.oldest_first().into_iter().take(most) {
        println!("{}", instance.addr);
    }
    Ok(ExitCode::SUCCESS)
}
