//! gitreceived, the daemon; the hook it has git run; and the guard it runs receivers under.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Parser;
use daemon::{Lifetime, lifetime::signalled, sockets::raise_file_limit, telemetry};
use gitreceived::{Args, Config, guard, hook};
use tokio::time::{sleep, timeout};
use tracing::info;

/// Pushes that were told to come back have this time to end.
const GRACE: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<ExitCode> {
    if let Some(program) = std::env::args_os().next().filter(|program| hook::is_me(program)) {
        return Ok(hook::run(&program));
    }
    if std::env::args_os().next().is_some_and(|program| guard::is_me(&program)) {
        return Ok(guard::run(std::env::args_os()));
    }
    serve(Args::parse())
}

#[tokio::main]
async fn serve(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::init("gitreceived");
    raise_file_limit();
    let config = Config::try_from(args)?;
    let lifetime = Lifetime::default();
    let grace = config.stop_grace;
    let running = gitreceived::start(config, &lifetime).await.context("starting gitreceived")?;
    info!(listen = %running.addr, "gitreceived listens on {}", running.addr);
    let by_signal = lifetime.until_signalled().await;
    lifetime.end();
    let over = async {
        if by_signal {
            // Whoever says it twice does not want to wait.
            let _ = timeout(grace, signalled()).await;
        }
        running.end_pushes();
        sleep(GRACE).await;
    };
    tokio::select! {
        drained = lifetime.clone().drain(grace + GRACE) => drained?,
        () = over => lifetime.drain(Duration::ZERO).await?,
    }
    Ok(ExitCode::SUCCESS)
}
