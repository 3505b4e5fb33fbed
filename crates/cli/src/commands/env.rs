//! `env`, `env-set`, `env-get`, `env-unset`.

use anyhow::Context;
use api::controller::{NewRelease, Release};
use clap::Args;

use super::deploy;
use crate::{
    args::Listing,
    domain::{
        env::{Change, assignments, changed, of_release, removals},
        suggest::nearest,
    },
    output,
    session::{AppSession, Session},
};

#[derive(Debug, Args)]
pub(crate) struct EnvArgs {
    /// What this process type gets
    #[arg(short = 't', long = "process-type", value_name = "TYPE")]
    kind: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// What this process type gets
    #[arg(short = 't', long = "process-type", value_name = "TYPE")]
    kind: Option<String>,
    /// The variable
    name: String,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Only for this process type
    #[arg(short = 't', long = "process-type", value_name = "TYPE")]
    kind: Option<String>,
    /// Variables and their values
    #[arg(required = true, value_name = "NAME=VALUE")]
    assignments: Vec<String>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct UnsetArgs {
    /// Only for this process type
    #[arg(short = 't', long = "process-type", value_name = "TYPE")]
    kind: Option<String>,
    /// Variables
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    listing: Listing,
}

pub(crate) async fn list(session: &Session, args: &EnvArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let release = current(&target).await?;
    let env = of_release(&release.unwrap_or_else(empty), args.kind.as_deref())?;
    if args.json {
        return output::json(&env);
    }
    let lines: String = env.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    Ok(output::text(&lines)?)
}

pub(crate) async fn get(session: &Session, args: &GetArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let release = current(&target).await?;
    let env = of_release(&release.unwrap_or_else(empty), args.kind.as_deref())?;
    let value = env.get(&args.name).with_context(|| {
        let near = nearest(&args.name, env.keys().map(String::as_str));
        let near = near.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
        format!("{} is not set{near}; `flynn env` lists what is", args.name)
    })?;
    if args.listing.json { output::json(value) } else { Ok(output::data(value)?) }
}

pub(crate) async fn set(session: &Session, args: &SetArgs) -> anyhow::Result<()> {
    change(session, args.listing, args.kind.as_deref(), &assignments(&args.assignments)?).await
}

pub(crate) async fn unset(session: &Session, args: &UnsetArgs) -> anyhow::Result<()> {
    change(session, args.listing, args.kind.as_deref(), &removals(&args.names)?).await
}

/// Makes the release with the change and deploys it.
async fn change(
    session: &Session,
    listing: Listing,
    kind: Option<&str>,
    change: &Change,
) -> anyhow::Result<()> {
    let target = session.app()?;
    deploy::change(&target, listing, async |app, release| {
        let Some(new) = changed(&release.unwrap_or_else(empty), kind, change)? else {
            output::say("Nothing changes: it is so already.");
            return Ok(None);
        };
        // A release that runs nothing yet: the first push takes its environment over.
        let new = NewRelease { app_id: Some(app.id), ..new };
        let made = target.controller.create_release(&new).await?;
        output::say(&format!("Created release {}.", made.id));
        Ok(Some(made.id))
    })
    .await
}

/// The release that serves, if there is one yet.
async fn current(target: &AppSession) -> anyhow::Result<Option<Release>> {
    let Some(id) = target.app().await?.release else { return Ok(None) };
    Ok(Some(target.controller.release(id).await?))
}

pub(super) fn empty() -> Release {
    Release {
        id: api::id::ReleaseId::random(),
        app_id: None,
        artifacts: Vec::new(),
        env: std::collections::BTreeMap::new(),
        meta: std::collections::BTreeMap::new(),
        processes: std::collections::BTreeMap::new(),
        created_at: jiff::Timestamp::now(),
    }
}
