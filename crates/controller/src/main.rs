//! The controller's daemon.

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use controller::{Args, Config};
use daemon::{Lifetime, lifetime::signalled, sockets::raise_file_limit, telemetry};

/// Other requests and steps under way may take this long to end.
const GRACE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    telemetry::init("controller");
    raise_file_limit();
    let config = Config::from(Args::parse());
    let lifetime = Lifetime::default();
    let running = controller::start(config, &lifetime).await.context("starting the controller")?;
    if lifetime.until_signalled().await {
        lifetime.end();
        tokio::select! {
            ((), ()) = async { tokio::join!(running.until_detached(), running.until_finished()) } => {}
            // Whoever says it twice does not want to wait.
            () = signalled() => {}
        }
    }
    running.detach();
    Ok(lifetime.drain(GRACE).await?)
}
