//! Fetching a buildpack with git.

use std::path::Path;

use tokio::process::Command;

use crate::{
    buildpack::Workshop,
    console::Console,
    domain::source::GitUrl,
    error::BuildError,
    process::{HEARTBEAT, shown_without},
};

/// A helper as gitcredentials(7) wants one: what it says comes from its environment, so that it is in no argument.
const HELPER: &str =
    "!f() { printf 'username=%s\\npassword=%s\\n' \"$FETCH_USER\" \"$FETCH_PASSWORD\"; }; f";

/// Fetches a buildpack with git.
pub async fn fetch(
    url: &GitUrl,
    reference: Option<&str>,
    into: &Path,
    shop: &Workshop,
    console: &Console,
) -> Result<(), BuildError> {
    let git = |arguments: &[&str]| {
        let mut git = shop.command(Path::new("git"));
        git.args(["-c", "advice.detachedHead=false"]).args(arguments);
        git.env("GIT_ALLOW_PROTOCOL", "https:http:git:ssh").env("GIT_TERMINAL_PROMPT", "0");
        if let Some((user, password)) = &url.credentials {
            git.env("GIT_CONFIG_COUNT", "1")
                .env("GIT_CONFIG_KEY_0", format!("credential.{}.helper", url.origin()))
                .env("GIT_CONFIG_VALUE_0", HELPER)
                .env("FETCH_USER", user)
                .env("FETCH_PASSWORD", password);
        }
        git
    };
    let run = async |command: Command| {
        let program = || "git".to_owned();
        shown_without(command, console, HEARTBEAT, &url.secrets())
            .await
            .map_err(|source| BuildError::Program { program: program(), source })
    };
    let (place, address) = (into.to_string_lossy(), url.plain.as_str());
    // A branch or tag is cheap to get; a commit has to be looked for in the whole history.
    let mut shallow =
        vec!["clone", "--quiet", "--depth=1", "--recurse-submodules", "--shallow-submodules"];
    if let Some(reference) = reference {
        shallow.extend(["--branch", reference]);
    }
    shallow.extend(["--", address, &place]);
    let commit = reference.is_some_and(|text| {
        (7..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
    });
    let mut status = match (commit, reference) {
        (true, Some(reference)) => {
            let cloned = run(git(&["clone", "--quiet", "--", address, &place])).await?;
            if cloned.success() {
                run(git(&["-C", &place, "checkout", "--quiet", reference, "--"])).await?
            } else {
                cloned
            }
        }
        _ => run(git(&shallow)).await?,
    };
    if status.success() && commit {
        status = run(git(&["-C", &place, "submodule", "--quiet", "update", "--init"])).await?;
    }
    let url = || url.shown().to_owned();
    if status.success() { Ok(()) } else { Err(BuildError::Fetch { url: url(), status }) }
}
