//! Checks of the workspace that are not a compiler's.
#![expect(clippy::print_stderr, reason = "a command that talks to a developer")]

mod tidy;

use std::process::Command;

use anyhow::{Context, bail};
use clap::Parser;

/// Checks of the workspace that are not a compiler's.
#[derive(Parser)]
enum Task {
    /// Layers, READMEs, lints, file lengths, module names.
    Tidy,
    /// Every check that needs no cluster: format, clippy, tidy, documentation.
    Ci,
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Tidy => tidy::check(),
        Task::Ci => {
            run("cargo fmt --all --check")?;
            run("cargo clippy --workspace --all-targets --profile ci -- -D warnings")?;
            tidy::check()?;
            run("cargo doc --workspace --no-deps --document-private-items --profile ci")
        }
    }
}

fn run(command: &str) -> anyhow::Result<()> {
    eprintln!("+ {command}");
    let mut words = command.split(' ');
    let program = words.next().context("an empty command")?;
    let status = Command::new(program)
        .args(words)
        .status()
        .with_context(|| format!("starting {command}"))?;
    if !status.success() {
        bail!("{command} failed");
    }
    Ok(())
}
