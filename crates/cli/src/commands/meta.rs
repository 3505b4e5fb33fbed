//! `meta`, `meta-set` and `meta-unset`.

use std::collections::BTreeMap;

use anyhow::Context;
use clap::Args;

use super::Usage;
use crate::{args::Listing, output, session::Session};

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Facts and their values
    #[arg(required = true, value_name = "NAME=VALUE")]
    assignments: Vec<String>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct UnsetArgs {
    /// Facts
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    listing: Listing,
}

pub(crate) async fn list(session: &Session, args: Listing) -> anyhow::Result<()> {
    let meta = session.app()?.app().await?.meta;
    if args.json {
        return output::json(&meta);
    }
    let lines: String = meta.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    Ok(output::text(&lines)?)
}

pub(crate) async fn set(session: &Session, args: &SetArgs) -> anyhow::Result<()> {
    let pairs = args.assignments.iter().map(|text| {
        let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) =
            pair.with_context(|| format!("{text:?} is not of the form NAME=VALUE"))?;
        Ok((name.to_owned(), Some(value.to_owned())))
    });
    let changes: anyhow::Result<BTreeMap<_, _>> = pairs.collect();
    change(session, args.listing, changes.map_err(|err| Usage(err.to_string()))?).await
}

pub(crate) async fn unset(session: &Session, args: &UnsetArgs) -> anyhow::Result<()> {
    change(session, args.listing, args.names.iter().map(|name| (name.clone(), None)).collect())
        .await
}

async fn change(
    session: &Session,
    listing: Listing,
    changes: BTreeMap<String, Option<String>>,
) -> anyhow::Result<()> {
    let target = session.app()?;
    let changed = target.controller.change_meta(&target.name, &changes).await;
    let changed = changed.map_err(|err| target.explained(err))?;
    if listing.json { output::json(&changed.meta) } else { Ok(()) }
}
