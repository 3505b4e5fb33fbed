//! `slugbuilder`: turns source into a slug.

use std::{io, process::ExitCode, time::Duration};

use clap::Parser;
use slugbuilder::{BuildError, Config, build, console::Console, init};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let config = Config::parse();
    // On stdout there is nothing but the slug.
    let console = if config.output == "-" && config.source_url.is_none() {
        Console::to_stderr()
    } else {
        Console::default()
    };
    match run(&config, &console) {
        Ok(status) => status,
        Err(err) => {
            console.error(&format!("The build could not be begun: {err}"));
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config, console: &Console) -> io::Result<ExitCode> {
    init::hide()?;
    if init::is_first() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(init::run());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let status = runtime.block_on(whole_build(config, console));
    // Someone who still reads stdin for us is not waited for.
    runtime.shutdown_background();
    Ok(status)
}

async fn whole_build(config: &Config, console: &Console) -> ExitCode {
    let limit = Duration::from_secs(config.timeout_seconds);
    let built = tokio::select! {
        built = build(config, console) => built,
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
