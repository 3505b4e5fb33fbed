//! `config`: how an app is deployed, kept in its meta.

use std::collections::BTreeMap;

use api::controller::META_DEPLOY_BRANCH;
use clap::Args;

use super::Usage;
use crate::{
    domain::{suggest::nearest, table},
    output,
    session::Session,
};

/// The settings there are.
const SETTINGS: [&str; 1] = [META_DEPLOY_BRANCH];

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Settings and their values; nothing after the = takes a setting back. Known: deploy-branch, the one branch whose
    /// push is deployed (main and master are without it)
    #[arg(value_name = "NAME=VALUE")]
    assignments: Vec<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Lists the settings, or changes some of them.
pub(crate) async fn config(session: &Session, args: &ConfigArgs) -> anyhow::Result<()> {
    let changes = changes(&args.assignments)?;
    let target = session.app()?;
    let meta = if changes.is_empty() {
        target.app().await?.meta
    } else {
        let changed = target.controller.change_meta(&target.name, &changes).await;
        changed.map_err(|err| target.explained(err))?.meta
    };
    let settings: BTreeMap<_, _> =
        meta.into_iter().filter(|(name, _)| SETTINGS.contains(&name.as_str())).collect();
    if args.json {
        return output::json(&settings);
    }
    let rows: Vec<_> = settings.into_iter().map(|(name, value)| vec![name, value]).collect();
    Ok(output::text(&table::render(&[], &rows))?)
}

/// What the assignments say: a value, or that a setting is taken back.
fn changes(assignments: &[String]) -> Result<BTreeMap<String, Option<String>>, Usage> {
    let change = |assignment: &String| {
        let (name, value) = assignment.split_once('=').ok_or_else(|| {
            Usage(format!(
                "{assignment:?} is no setting: expected <name>=<value>, as deploy-branch=main"
            ))
        })?;
        if !SETTINGS.contains(&name) {
            let near = nearest(name, SETTINGS).unwrap_or(SETTINGS[0]);
            return Err(Usage(format!("there is no setting {name:?} (did you mean {near}?)")));
        }
        let value = value.strip_prefix("refs/heads/").unwrap_or(value);
        if !value.is_empty() && !is_branch(value) {
            return Err(Usage(format!("{value:?} cannot be the name of a branch")));
        }
        Ok((name.to_owned(), Some(value.to_owned()).filter(|value| !value.is_empty())))
    };
    assignments.iter().map(change).collect()
}

fn is_branch(name: &str) -> bool {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !"~^:?*[\\".contains(c);
    name.len() <= 200 && !name.starts_with('-') && !name.contains("..") && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_has_a_known_name_and_a_value_that_can_be_obeyed() {
        let said = |text: &str| changes(&[text.to_owned()]).map_err(|err| err.to_string());
        assert_eq!(
            said("deploy-branch=live").unwrap(),
            [("deploy-branch".into(), Some("live".into()))].into()
        );
        assert_eq!(said("deploy-branch=").unwrap(), [("deploy-branch".into(), None)].into());
        assert_eq!(
            said("deploy-branch=refs/heads/a/b").unwrap()["deploy-branch"].as_deref(),
            Some("a/b")
        );
        for bad in
            ["deploy-branch", "deploy_branch=x", "x=y", "deploy-branch=a b", "deploy-branch=-x"]
        {
            assert!(said(bad).is_err(), "{bad}");
        }
    }
}
