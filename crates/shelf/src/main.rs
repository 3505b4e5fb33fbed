//! shelf, the daemon.

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use daemon::{Lifetime, sockets::raise_file_limit, telemetry};
use shelf::{Args, Config};
use tracing::info;

/// Uploads under way at SIGTERM have this long to end.
const GRACE: Duration = Duration::from_secs(25);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    telemetry::init("shelf");
    raise_file_limit();
    let config = Config::from(Args::parse());
    let lifetime = Lifetime::default();
    let running = shelf::start(config, &lifetime).await.context("starting shelf")?;
    info!(listen = %running.addr, "shelf listens on {}", running.addr);
    lifetime.until_signalled().await;
    Ok(lifetime.drain(GRACE).await?)
}
