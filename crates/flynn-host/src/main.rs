//! `flynn-host`: see the crate's documentation.

use std::{io::Write, time::Duration};

use clap::Parser;
use daemon::{Lifetime, telemetry};
use flynn_host::{Cli, Command, Config, commands};

/// Requests under way may take so long to finish. Jobs go on running.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Init(options) => {
            let host = flynn_host::init(&options)?;
            writeln!(std::io::stdout(), "{}", host.id)?;
            Ok(())
        }
        Command::Daemon(config) => run(*config).await,
        command => commands::run(command).await,
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    telemetry::init("flynn-host");
    let lifetime = Lifetime::default();
    let started = tokio::select! {
        started = flynn_host::start(config, &lifetime) => Some(started?),
        () = lifetime.until_signalled() => None,
    };
    if started.is_some() {
        lifetime.until_signalled().await;
    }
    Ok(lifetime.drain(GRACE).await?)
}
