//! `flynn-host tags`.

use std::{
    collections::BTreeMap,
    io::{Write, stdout},
};

use anyhow::{Context, bail};
use api::cluster::{TAG_DRAINING, TAG_FULL};
use host_client::{Cluster, Host};

use super::{host, key_of, print_json, said};
use crate::config::{Client, TagsChange};

pub(super) async fn tags(change: Option<TagsChange>, client: &Client) -> anyhow::Result<()> {
    let (id, tags) = match change {
        None => return show(client).await,
        Some(TagsChange::Set { id, tags }) => (id, tags.into_iter().collect()),
        Some(TagsChange::Del { id, tags }) => {
            let none = tags.into_iter().map(|name| (name, String::new()));
            (id, none.collect::<BTreeMap<_, _>>())
        }
    };
    let hosts = host(client)?.hosts().await?;
    let Some(one) = hosts.into_iter().find(|one| one.id == id) else {
        bail!("the cluster has no host {id}; see flynn-host list");
    };
    let Some(api) = one.api else { bail!("{id} is away, so its tags cannot be changed") };
    Host::new(format!("http://{api}"), Some(key_of(client)?)).set_tags(&tags).await?;
    said(client, &format!("the tags of {id} are changed; processes are placed by them at once"))
}

/// The tags of every host, by the word of the one that leads.
async fn show(client: &Client) -> anyhow::Result<()> {
    let hosts = host(client)?.hosts().await?;
    let leader = hosts.into_iter().find(|one| one.leader).and_then(|one| one.api);
    let leader = leader.context("no host leads the cluster at the moment; try again")?;
    let state = Cluster::new(format!("http://{leader}"), Some(key_of(client)?)).state().await?;
    let tags = state.hosts.into_iter().map(|(id, host)| {
        let mut tags = host.tags.clone();
        // How a host is used is shown by flynn-host list.
        tags.retain(|name, _| ![TAG_DRAINING, TAG_FULL].contains(&name.as_str()));
        (id, tags)
    });
    let tags: BTreeMap<String, BTreeMap<String, String>> = tags.collect();
    if client.json {
        return print_json(&tags);
    }
    let mut out = stdout().lock();
    writeln!(out, "{:<20} TAGS", "HOST")?;
    for (id, tags) in tags {
        let tags: Vec<_> = tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let tags = if tags.is_empty() { "-".into() } else { tags.join(" ") };
        writeln!(out, "{id:<20} {tags}")?;
    }
    Ok(())
}
