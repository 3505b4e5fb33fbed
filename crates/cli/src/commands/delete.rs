//! `delete`.

use std::io::IsTerminal;

use anyhow::bail;
use clap::Args;

use crate::{git, output, session::Session};

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) async fn delete(session: &Session, args: &DeleteArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let name = target.app().await?.name;
    if !args.yes {
        if !std::io::stdin().is_terminal() {
            bail!("deleting {name} cannot be undone; say -y to do it without being asked");
        }
        output::say(&format!(
            "This stops all jobs of {name} and deletes its releases and routes. It cannot be undone."
        ));
        let answer = output::ask(&format!("Type {name} to go on: "))?;
        if answer != name {
            bail!("that is not {name}; nothing was deleted");
        }
    }
    target.controller.delete_app(&target.name).await.map_err(|err| target.explained(err))?;
    output::say(&format!("Deleted {name}"));
    let url = target.server.git_url(&name);
    let remotes = git::remotes();
    for (remote, _) in remotes.iter().filter(|(_, old)| *old == url) {
        git::remove_remote(remote)?;
        output::say(&format!("Removed the git remote {remote:?}"));
    }
    Ok(())
}
