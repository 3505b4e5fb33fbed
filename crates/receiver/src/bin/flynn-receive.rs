//! `flynn-receive`: a tree on stdin becomes a running release.

use std::process::ExitCode;

use clap::Parser;
use receiver::{Console, config::ReceiveArgs, receive};

#[tokio::main]
async fn main() -> ExitCode {
    let args = ReceiveArgs::parse();
    let console = Console::stdout();
    match receive(args, tokio::io::stdin(), &console).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console.failure(&failure);
            ExitCode::FAILURE
        }
    }
}
