//! `taffy`: a git URL becomes a running release.
#![expect(clippy::print_stderr, reason = "a tool says why it failed")]

use std::process::ExitCode;

use clap::Parser;
use taffy::{Args, run};

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        // The receiver has said why.
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!(" !     {err:#}");
            ExitCode::FAILURE
        }
    }
}
