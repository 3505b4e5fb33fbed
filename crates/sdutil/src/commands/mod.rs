//! Commands, a file each.

mod exec;
mod expose;
mod register;
mod services;

use std::process::ExitCode;

use discoverd_client::Discoverd;

use crate::config::{Args, Command};

/// Does what the command line says and answers with the exit code.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let discoverd = Discoverd::new(&args.discoverd, args.key);
    match args.command {
        Command::Check { silent } => Ok(services::check(&discoverd, silent).await),
        Command::Services { one, name } => services::print(&discoverd, &name, one).await,
        Command::Register { address, labels, offer } => {
            let host = register::address(&address, &discoverd).await?;
            register::until_interrupted(&discoverd, host, &labels, &offer).await
        }
        Command::Exec { address, labels, service, command } => {
            let host = register::address(&address, &discoverd).await?;
            exec::run(&discoverd, host, &labels, &service, &command).await
        }
        Command::Expose { depend, command } => expose::run(&discoverd, &depend, &command).await,
    }
}
