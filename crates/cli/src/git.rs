//! The repository the person is in.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::domain::target::push_urls;

/// Names and push URLs of the remotes; none outside a repository.
pub(crate) fn remotes() -> Vec<(String, String)> {
    output(&["remote", "-v"]).map(|listing| push_urls(&listing)).unwrap_or_default()
}

/// A value of git's configuration.
pub(crate) fn config(name: &str) -> Option<String> {
    output(&["config", name]).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Whether we are inside a repository.
pub(crate) fn is_repository() -> bool {
    output(&["rev-parse", "--git-dir"]).is_some()
}

/// Adds a remote, or points an existing one elsewhere.
pub(crate) fn set_remote(name: &str, url: &str, exists: bool) -> anyhow::Result<()> {
    let verb = if exists { "set-url" } else { "add" };
    run(&["remote", verb, name, url])
}

/// Removes a remote.
pub(crate) fn remove_remote(name: &str) -> anyhow::Result<()> {
    run(&["remote", "remove", name])
}

fn output(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run(args: &[&str]) -> anyhow::Result<()> {
    let line = format!("git {}", args.join(" "));
    let output = Command::new("git").args(args).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("running `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
