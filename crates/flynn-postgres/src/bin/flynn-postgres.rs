//! `flynn-postgres`: PostgreSQL as a supervised job.

use std::{error::Error, process::ExitCode};

use clap::Parser;
use flynn_postgres::{config::ServerConfig, supervisor};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    daemon::telemetry::init("flynn-postgres");
    match supervisor::run(&ServerConfig::parse()).await {
        Ok(status) => ExitCode::from(status),
        Err(err) => {
            tracing::error!(error = &err as &dyn Error, "{err}");
            ExitCode::FAILURE
        }
    }
}
