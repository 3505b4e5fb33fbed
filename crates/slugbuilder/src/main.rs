//! `slugbuilder`: turns source into a slug.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use slugbuilder::{BuildError, Config, build, console::Console};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    let console = Console::default();
    let limit = Duration::from_secs(config.timeout_seconds);
    let built = tokio::select! {
        built = build(&config, &console) => built,
        () = tokio::time::sleep(limit) => Err(BuildError::TooLong { limit }),
        () = told_to_end() => {
            console.error("The build was cancelled.");
            return ExitCode::from(143);
        }
    };
    match built {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            console.error(&err.report());
            ExitCode::FAILURE
        }
    }
}

async fn told_to_end() {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [term, int, hup] = kinds.map(signal);
    let (Ok(mut term), Ok(mut int), Ok(mut hup)) = (term, int, hup) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        _ = hup.recv() => {}
    }
}
