//! `flynn-postgres-api`: makes databases.

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use flynn_postgres::config::ApiConfig;
use tracing::info;

/// Requests under way have this long to finish: less than the daemon has before it is killed.
const GRACE: Duration = Duration::from_secs(28);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    daemon::telemetry::init("flynn-postgres-api");
    let lifetime = daemon::Lifetime::default();
    let running = flynn_postgres::start(&ApiConfig::parse(), &lifetime)
        .await
        .context("starting flynn-postgres-api")?;
    info!(listen = %running.addr, "flynn-postgres-api listens on {}", running.addr);
    lifetime.until_signalled().await;
    Ok(lifetime.drain(GRACE).await?)
}
