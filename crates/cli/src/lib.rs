#![doc = include_str!("../README.md")]

mod args;
mod attached;
mod commands;
mod domain;
mod explain;
mod git;
mod http;
mod output;
mod session;
mod stdio;
mod terminal;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, Parser};
use session::Session;

/// Parses the command line, carries it out, and answers with the status to exit with.
pub fn main(argv: Vec<OsString>) -> ExitCode {
    if let Some(way) = domain::argv::way_instead(&argv) {
        output::say(&format!("flynn: {way}."));
        return ExitCode::from(2);
    }
    let cli = match args::Cli::try_parse_from(domain::argv::rewrite(argv)) {
        Ok(cli) => cli,
        Err(err) => {
            let _ = err.print();
            return ExitCode::from(u8::try_from(err.exit_code()).unwrap_or(2));
        }
    };
    let Some(command) = cli.command else {
        output::say(&args::Cli::command().render_help().to_string());
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(err) => {
            output::say(&format!("flynn: no runtime could be started: {err}"));
            return ExitCode::FAILURE;
        }
    };
    let session = Session::new(cli.globals);
    let result = runtime.block_on(commands::run(command, &session));
    // A thread may still wait for stdin; nobody needs what it would read.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        // Whoever read our output has seen enough.
        Err(err) if output::is_closed(&err) => ExitCode::SUCCESS,
        Err(err) => {
            output::say(&format!("flynn: {}", explain::sentence(&err, session.chosen())));
            ExitCode::from(if err.is::<commands::Usage>() { 2 } else { 1 })
        }
    }
}
