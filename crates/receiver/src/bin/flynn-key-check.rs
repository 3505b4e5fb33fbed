//! `flynn-key-check`: whether the controller knows an SSH key.
#![expect(clippy::print_stderr, reason = "a tool says why it failed")]

use std::process::ExitCode;

use receiver::{config::KeyCheckArgs, key_check::is_known};

#[tokio::main]
async fn main() -> ExitCode {
    let Some(args) = KeyCheckArgs::parse(std::env::args_os()) else {
        eprintln!(
            "It is run as: flynn-key-check <user> \"<type> <base64>\", with CONTROLLER_KEY in its environment."
        );
        return ExitCode::FAILURE;
    };
    match is_known(args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("The controller could not be asked for its keys: {err}");
            ExitCode::FAILURE
        }
    }
}
