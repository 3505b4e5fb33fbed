//! gitreceived, the daemon; and the hook it has git run.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Parser;
use daemon::{Lifetime, telemetry};
use gitreceived::{Args, Config, hook};
use tracing::info;

/// Pushes that were told to come back have this time to end.
const GRACE: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<ExitCode> {
    if let Some(program) = std::env::args_os().next().filter(|program| hook::is_me(program)) {
        return Ok(hook::run(&program));
    }
    serve(Args::parse())
}

#[tokio::main]
async fn serve(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::init("gitreceived");
    let config = Config::try_from(args)?;
    let lifetime = Lifetime::default();
    let grace = config.stop_grace + GRACE;
    let running = gitreceived::start(config, &lifetime).await.context("starting gitreceived")?;
    info!(listen = %running.addr, "gitreceived listens on {}", running.addr);
    lifetime.until_signalled().await;
    lifetime.drain(grace).await?;
    Ok(ExitCode::SUCCESS)
}
