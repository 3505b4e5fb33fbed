//! `flynn-key-check`: whether the controller knows an SSH key.
#![expect(clippy::print_stderr, reason = "a tool says why it failed")]

use std::process::ExitCode;

use clap::Parser;
use receiver::{config::KeyCheckArgs, key_check::is_known};

#[tokio::main]
async fn main() -> ExitCode {
    match is_known(KeyCheckArgs::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("The controller could not be asked for its keys: {err}");
            ExitCode::FAILURE
        }
    }
}
