//! `create`.

use std::io::IsTerminal;

use anyhow::{Context, bail};
use api::controller::NewApp;
use clap::Args;

use super::Usage;
use crate::{args::Listing, git, output, session::Session};

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name of the git remote to make; empty: none
    #[arg(short, long, default_value = "flynn")]
    remote: String,
    /// Replace a git remote of that name without asking
    #[arg(short, long)]
    yes: bool,
    /// Name of the app: letters, digits and dashes; drawn if left out
    name: Option<String>,
    #[command(flatten)]
    listing: Listing,
}

pub(crate) async fn create(session: &Session, args: &CreateArgs) -> anyhow::Result<()> {
    if args.name.as_deref() == Some("") {
        return Err(Usage("the name of an app is not empty; without one it is drawn".into()).into());
    }
    let (server, controller) = session.server()?;
    let wants_remote = !args.remote.is_empty() && git::is_repository();
    let existing = git::remotes().into_iter().find(|(name, _)| *name == args.remote);
    let url = args.name.as_deref().map(|name| server.git_url(name));
    let stands = existing.as_ref().is_some_and(|(_, old)| Some(old) == url.as_ref());
    // Asked before the app is there: who says no has changed nothing.
    if let Some((remote, old)) = existing.as_ref().filter(|_| wants_remote && !stands) {
        replace_allowed(args, remote, old)?;
    }
    let new = NewApp { name: args.name.clone(), ..NewApp::default() };
    let app = controller.create_app(&new).await?;
    output::say(&format!("Created {}", app.name));
    if args.listing.json {
        output::json(&app)?;
    }
    let url = server.git_url(&app.name);
    if !wants_remote {
        if !args.remote.is_empty() {
            output::say(&format!(
                "Here is no git repository. In the app's: git remote add {} {url}",
                args.remote
            ));
        }
        return Ok(());
    }
    let existing = existing.map(|(_, old)| old);
    if existing.as_ref() != Some(&url) {
        git::set_remote(&args.remote, &url, existing.is_some()).with_context(|| {
            format!("{} is created, but its git remote is not: {url}", app.name)
        })?;
    }
    Ok(())
}

fn replace_allowed(args: &CreateArgs, remote: &str, old: &str) -> anyhow::Result<()> {
    if args.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!(
            "the git remote {remote:?} exists and points to {old}. Nothing was created. `-y` replaces it, \
             `-r <name>` makes another"
        );
    }
    let answer =
        output::ask(&format!("The git remote {remote:?} points to {old}. Replace it? (yes/no): "))?;
    if !matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes") {
        bail!("nothing was created; `-r <name>` makes another git remote");
    }
    Ok(())
}
