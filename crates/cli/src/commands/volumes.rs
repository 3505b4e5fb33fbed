//! `volumes`, `volume-remove`.

use std::io::IsTerminal;

use anyhow::bail;
use api::volume::Volume;
use clap::Args;

use crate::{
    domain::{table, volumes},
    output,
    session::Session,
};

#[derive(Debug, Args)]
pub(crate) struct VolumesArgs {
    /// Of all apps, with those that deleted apps have left
    #[arg(long)]
    all: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// As `flynn volumes` shows it
    volume: String,
    /// Of several hosts that have it, the one that is meant
    #[arg(long)]
    host: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn list(session: &Session, args: &VolumesArgs) -> anyhow::Result<()> {
    let volumes = if args.all {
        session.server()?.1.volumes().await?
    } else {
        let target = session.app()?;
        let volumes = target.controller.app_volumes(&target.name).await;
        volumes.map_err(|err| target.explained(err))?
    };
    if args.json {
        return output::json(&volumes);
    }
    let rows: Vec<_> = volumes.iter().map(volumes::row).collect();
    Ok(output::text(&table::render(&volumes::HEADER, &rows))?)
}

pub(crate) async fn remove(session: &Session, args: &RemoveArgs) -> anyhow::Result<()> {
    let (_, controller) = session.server()?;
    let known = controller.volumes().await?;
    let volume = volumes::chosen(&known, &args.volume, args.host.as_deref())?;
    if !args.yes {
        confirm(volume)?;
    }
    // Of an app that is no more there is no app to name.
    let app = volume.app.filter(|_| volume.app_name.is_some()).map(|app| app.to_string());
    let host = Some(&*volume.host_id);
    let removed = controller.remove_volume(app.as_deref(), &volume.id, host).await?;
    if args.json {
        return output::json(&removed);
    }
    output::say(&format!("Volume {} removed from host {}.", removed.id, removed.host_id));
    Ok(())
}

fn confirm(volume: &Volume) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("removing a volume cannot be undone; say -y to do it without being asked");
    }
    let size = volumes::size(volume.size);
    let whose = volumes::whose(volume);
    let answer = output::ask(&format!(
        "This deletes {size} of {whose} on host {}, for ever. Go on? (yes/no): ",
        volume.host_id
    ))?;
    if !matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes") {
        bail!("nothing was removed");
    }
    Ok(())
}
