//! scheduler, the daemon.

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use daemon::{Lifetime, telemetry};
use scheduler::{Args, Config};
use tracing::info;

/// A transaction under way at SIGTERM has this long to end.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    telemetry::init("scheduler");
    let config = Config::from(Args::parse());
    let lifetime = Lifetime::default();
    let running = scheduler::start(config, &lifetime).await.context("starting the scheduler")?;
    info!(listen = %running.addr, "scheduler listens on {}", running.addr);
    lifetime.until_signalled().await;
    Ok(lifetime.drain(GRACE).await?)
}
