//! The controller's daemon.

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use controller::{Args, Config};
use daemon::{Lifetime, telemetry};

/// Requests and steps under way may take this long to end.
const GRACE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    telemetry::init("controller");
    let config = Config::from(Args::parse());
    let lifetime = Lifetime::default();
    let running = controller::start(config, &lifetime).await.context("starting the controller")?;
    lifetime.until_signalled().await;
    lifetime.end();
    running.until_detached().await;
    Ok(lifetime.drain(GRACE).await?)
}
