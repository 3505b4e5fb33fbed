//! The HTTP and TCP router.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use daemon::{Lifetime, sockets::raise_file_limit, telemetry};
use strowger::{Config, start};
use tracing::{error, warn};

/// Requests under way have this long when the router stops.
const GRACE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    telemetry::init("strowger");
    let config = Config::parse();
    raise_file_limit();
    let lifetime = Lifetime::default();
    if let Err(err) = start(config, &lifetime).await {
        error!("the router cannot start: {err:#}");
        return ExitCode::FAILURE;
    }
    lifetime.until_signalled().await;
    if let Err(err) = lifetime.drain(GRACE).await {
        warn!("{err}; they are cut off");
    }
    ExitCode::SUCCESS
}
