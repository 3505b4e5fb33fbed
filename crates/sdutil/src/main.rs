//! Parse, run, exit as told.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    sdutil::run(sdutil::Args::parse()).await
}
