//! `flynn-host`: see the crate's documentation.

use std::{
    io::{Write, stdout},
    time::Duration,
};

use clap::Parser;
use daemon::{Lifetime, sockets::raise_file_limit, telemetry};
use flynn_host::{Cli, Command, Config, Init, Made, commands};

/// Requests under way may take so long to finish. Jobs go on running.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Init(options) => init(&options),
        Command::Join(options) => {
            let id = flynn_host::join_cluster(&options).await?;
            writeln!(
                stdout(),
                "This machine is host {id} now. Start its daemon: flynn-host daemon"
            )?;
            Ok(())
        }
        Command::Daemon(config) => run(*config).await,
        command => commands::run(command).await,
    }
}

fn init(options: &Init) -> anyhow::Result<()> {
    let Made { host, invitation } = flynn_host::init(options)?;
    let mut out = stdout();
    writeln!(out, "This machine is host {} now. Start its daemon: flynn-host daemon", host.id)?;
    if let Some(invitation) = invitation {
        writeln!(out, "\nOne other machine can become a host of the same cluster, within a day:")?;
        writeln!(out, "  flynn-host join {invitation}")?;
        writeln!(out, "For the next one, on any host of the cluster: flynn-host invite")?;
    }
    Ok(())
}

async fn run(config: Config) -> anyhow::Result<()> {
    telemetry::init("flynn-host");
    raise_file_limit();
    let lifetime = Lifetime::default();
    let started = tokio::select! {
        started = flynn_host::start(config, &lifetime) => Some(started?),
        _ = lifetime.until_signalled() => None,
    };
    if started.is_some() {
        lifetime.until_signalled().await;
    }
    Ok(lifetime.drain(GRACE).await?)
}
