//! Parse, start, wait, drain.

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use daemon::{Lifetime, sockets::raise_file_limit, telemetry};
use discoverd::{Args, Config};
use tracing::info;

/// Streams end at once; what is left are requests that wait for etcd.
const GRACE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    telemetry::init("discoverd");
    raise_file_limit();
    let config = Config::try_from(Args::parse())?;
    let lifetime = Lifetime::default();
    let running = discoverd::start(config, &lifetime).await.context("starting discoverd")?;
    for addr in &running.addrs {
        info!(%addr, "discoverd listens on {addr}");
    }
    for addr in &running.dns_addrs {
        info!(%addr, "discoverd answers DNS on {addr}");
    }
    lifetime.until_signalled().await;
    Ok(lifetime.drain(GRACE).await?)
}
