//! `providers`, `provider-add`, `provider-remove`, `resources`, `resource-add`, `resource-remove`, `resource-restore`,
//! `gc`.

use std::{collections::BTreeMap, io::Read};

use anyhow::{Context, bail};
use api::{
    controller::{NewProvider, NewRelease, NewResource, Provider, Release, Resource},
    id::{AppId, ProviderId, ResourceId},
};
use clap::Args;
use controller_client::Controller;

use super::deploy;
use crate::{
    args::Listing,
    domain::{
        env::{Change, changed},
        resources::{Replaces, check_own, expected, replaced, with, without},
        suggest::nearest,
        table,
    },
    output,
    session::{AppSession, Session},
    stdio,
};

#[derive(Debug, Args)]
pub(crate) struct AddProviderArgs {
    /// The key the provider wants; `-` reads it from stdin
    #[arg(long)]
    key: Option<String>,
    /// What it is called
    name: String,
    /// Where it makes things: http(s)://host/path, or discoverd+http://service/path inside the cluster
    url: String,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveProviderArgs {
    /// Give up what was removed and the provider has not destroyed yet: it is gone for good
    #[arg(long)]
    force: bool,
    /// Its name or id, as `flynn providers` lists them
    provider: String,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct ResourcesArgs {
    /// Of all apps, with those that can still be restored
    #[arg(long)]
    all: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Replace variables that the app has of its own
    #[arg(long)]
    replace: bool,
    /// Who makes it, as `flynn providers` lists them: postgres
    provider: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Id of the resource, or the provider if the app has one resource of it
    resource: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Replace variables that the app has of its own
    #[arg(long)]
    replace: bool,
    /// Id of the resource, as `flynn resources --all` shows it
    resource: ResourceId,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn providers(session: &Session, args: Listing) -> anyhow::Result<()> {
    let (_, controller) = session.server()?;
    let providers = controller.providers().await?;
    if args.json {
        return output::json(&providers);
    }
    let row = |p: &Provider| vec![p.name.clone(), p.url.clone(), p.id.to_string()];
    let rows: Vec<_> = providers.iter().map(row).collect();
    Ok(output::text(&table::render(&["NAME", "URL", "ID"], &rows))?)
}

pub(crate) async fn add_provider(session: &Session, args: &AddProviderArgs) -> anyhow::Result<()> {
    let (_, controller) = session.server()?;
    let key = match args.key.as_deref() {
        Some("-") => {
            let mut key = String::new();
            stdio::stdin().read_to_string(&mut key).context("reading the key from stdin")?;
            Some(key.trim().to_owned())
        }
        key => key.map(str::to_owned),
    };
    let new = NewProvider { url: args.url.clone(), name: args.name.clone(), key };
    let provider = controller.create_provider(&new).await?;
    if args.listing.json {
        return output::json(&provider);
    }
    Ok(output::data(&format!("Added provider {} ({}).", provider.name, provider.id))?)
}

pub(crate) async fn remove_provider(
    session: &Session,
    args: &RemoveProviderArgs,
) -> anyhow::Result<()> {
    let (_, controller) = session.server()?;
    let found = provider(&controller, &args.provider).await?;
    let id = found.id.to_string();
    let removed = match args.force {
        true => controller.force_provider_removal(&id).await?,
        false => controller.remove_provider(&id).await?,
    };
    if args.listing.json {
        return output::json(&removed);
    }
    Ok(output::data(&format!("Removed provider {} ({}).", removed.name, removed.id))?)
}

pub(crate) async fn list(session: &Session, args: &ResourcesArgs) -> anyhow::Result<()> {
    let (controller, resources) = if args.all {
        let (_, controller) = session.server()?;
        let resources = controller.all_resources(true).await?;
        (controller, resources)
    } else {
        let target = session.app()?;
        let resources = resources_of(&target).await?;
        (target.controller, resources)
    };
    if args.json {
        return output::json(&resources);
    }
    let names = names(&controller).await?;
    let row = |r: &Resource| {
        let provider = names.get(&r.provider).cloned().unwrap_or_else(|| r.provider.to_string());
        let state = match r.purge_at {
            Some(_) if r.purging => "removed, being destroyed".to_owned(),
            Some(at) => format!("removed, kept until {at:.0}"),
            None => String::new(),
        };
        vec![r.id.to_string(), provider, r.external_id.clone(), state]
    };
    let rows: Vec<_> = resources.iter().map(row).collect();
    Ok(output::text(&table::render(&["ID", "PROVIDER", "PROVIDER'S ID", ""], &rows))?)
}

async fn names(controller: &Controller) -> anyhow::Result<BTreeMap<ProviderId, String>> {
    Ok(controller.providers().await?.into_iter().map(|p| (p.id, p.name)).collect())
}

/// Has the provider make a resource for the app, and deploys the app with its environment.
pub(crate) async fn add(session: &Session, args: &AddArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let app = target.app().await?;
    let provider = provider(&target.controller, &args.provider).await?;
    let own = Own::of(args.replace);
    if own == Own::Stays {
        let resources = resources_of(&target).await?;
        let alike: Vec<_> = resources.iter().filter(|r| r.provider == provider.id).collect();
        refuse_own(&target, &expected(&provider.name, &alike), &resources).await?;
    }
    let new = NewResource { apps: vec![app.id.to_string()], ..NewResource::default() };
    let made = target.controller.provision(&args.provider, &new).await?;
    output::say(&format!("Created resource {}.", made.id));
    if let Err(err) = use_resource(&target, &made, own).await {
        // A provider of whose variables nothing was known before.
        if err.is::<Replaces>() {
            target.controller.remove_resource(&provider.id.to_string(), made.id).await?;
            output::say(&format!("Removed resource {} again.", made.id));
            return Err(err);
        }
        return Err(err.context(format!(
            "the resource {} was made, but the app was not deployed with it",
            made.id
        )));
    }
    if args.json { output::json(&made) } else { Ok(()) }
}

async fn provider(controller: &Controller, typed: &str) -> anyhow::Result<Provider> {
    let providers = controller.providers().await?;
    let found = providers.iter().find(|p| p.name == typed || p.id.to_string() == typed);
    found.cloned().with_context(|| {
        let near = nearest(typed, providers.iter().map(|provider| provider.name.as_str()));
        let near = near.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        format!("there is no provider {typed:?}{near} (`flynn providers` lists them)")
    })
}

/// Deploys the app with what a resource gives. What the app has of its own is not replaced, unless that is wanted.
async fn use_resource(target: &AppSession, resource: &Resource, own: Own) -> anyhow::Result<()> {
    let resources = resources_of(target).await?;
    let names: Vec<String> = resource.env.keys().cloned().collect();
    change_env(target, |release| {
        if own == Own::Stays {
            check_own(&release.env, &names, &resources)?;
        }
        if let Some(other) = replaced(&release.env, resource, &resources) {
            output::say(&format!(
                "The variables of resource {} are replaced; they come back when {} is removed.",
                other.id, resource.id
            ));
        }
        Ok(with(resource))
    })
    .await
}

/// What becomes of variables of the app's own that a resource gives, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Stays,
    IsReplaced,
}

impl Own {
    fn of(replace: bool) -> Self {
        if replace { Self::IsReplaced } else { Self::Stays }
    }
}

/// Refuses, before anything is made, what would replace variables of the app's own.
async fn refuse_own(
    target: &AppSession,
    names: &[String],
    resources: &[Resource],
) -> anyhow::Result<()> {
    let Some(release) = target.app().await?.release else { return Ok(()) };
    let env = target.controller.release(release).await?.env;
    Ok(check_own(&env, names, resources)?)
}

async fn resources_of(target: &AppSession) -> anyhow::Result<Vec<Resource>> {
    let resources = target.controller.resources(&target.name).await;
    resources.map_err(|err| target.explained(err))
}

async fn change_env(
    target: &AppSession,
    change: impl Fn(&Release) -> anyhow::Result<Change>,
) -> anyhow::Result<()> {
    // Each command shows the resource itself.
    deploy::change(target, Listing::default(), async |app, current| {
        let current = current.unwrap_or_else(super::env::empty);
        let Some(new) = changed(&current, None, &change(&current)?)? else { return Ok(None) };
        let new = NewRelease { app_id: Some(app.id), ..new };
        let made = target.controller.create_release(&new).await?;
        output::say(&format!("Created release {}.", made.id));
        Ok(Some(made.id))
    })
    .await
}

/// Deploys the app without a resource, and removes it.
pub(crate) async fn remove(session: &Session, args: &RemoveArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let resources = resources_of(&target).await?;
    let resource = chosen(&resources, &names(&target.controller).await?, &args.resource)?;
    let provider = resource.provider.to_string();
    let app = target.app().await?;
    change_env(&target, |release| Ok(without(&release.env, resource, &resources))).await?;
    let others = resource.apps.iter().any(|user| *user != app.id);
    let removed = match others {
        true => None,
        false => remove_unless_shared(&target, resource, app.id).await?,
    };
    let Some(removed) = removed else {
        let left = target.controller.remove_resource_app(&provider, resource.id, &target.name);
        let left = left.await?;
        output::say(&format!("Other apps use {} still; it stays for them.", resource.id));
        return if args.json { output::json(&left) } else { Ok(()) };
    };
    let until = removed.purge_at.map(|at| format!(" until {at:.0}")).unwrap_or_default();
    output::say(&format!(
        "Removed {id}. `flynn resource-restore {id}` brings it back{until}; then it is destroyed.",
        id = removed.id
    ));
    if args.json { output::json(&removed) } else { Ok(()) }
}

/// Removes a resource, unless another app has begun to use it since it was listed.
async fn remove_unless_shared(
    target: &AppSession,
    resource: &Resource,
    app: AppId,
) -> anyhow::Result<Option<Resource>> {
    let provider = resource.provider.to_string();
    let removed = target.controller.remove_resource_of(&provider, resource.id, app).await;
    if removed.as_ref().is_err_and(api_client::Error::is_conflict) {
        let now = target.controller.resource(&provider, resource.id).await?;
        if now.apps.iter().any(|user| *user != app) {
            return Ok(None);
        }
    }
    Ok(Some(removed?))
}

/// The resource a person means.
fn chosen<'a>(
    resources: &'a [Resource],
    names: &BTreeMap<ProviderId, String>,
    wanted: &str,
) -> anyhow::Result<&'a Resource> {
    let meant = |r: &&Resource| {
        r.id.to_string() == wanted || names.get(&r.provider).is_some_and(|name| name == wanted)
    };
    let found: Vec<_> = resources.iter().filter(meant).collect();
    match found[..] {
        [one] => Ok(one),
        [] => bail!("the app has no resource {wanted:?}; `flynn resources` lists what it has"),
        _ => bail!("the app has {} resources of {wanted}: give the id of one", found.len()),
    }
}

/// Brings a removed resource back, and deploys the app with it if the command names one.
pub(crate) async fn restore(session: &Session, args: &RestoreArgs) -> anyhow::Result<()> {
    let (_, controller) = session.server()?;
    let all = controller.all_resources(true).await?;
    let found = all.iter().find(|resource| resource.id == args.resource);
    let found = found.with_context(|| {
        format!("there is no resource {}; what was destroyed cannot be restored", args.resource)
    })?;
    let provider = found.provider.to_string();
    let (target, own) = (session.app().ok(), Own::of(args.replace));
    if let Some(target) = target.as_ref().filter(|_| own == Own::Stays) {
        let found = target.controller.resource(&provider, found.id).await?;
        let names: Vec<String> = found.env.keys().cloned().collect();
        let resources = [resources_of(target).await?, vec![found]].concat();
        refuse_own(target, &names, &resources).await?;
    }
    let restored = controller.restore_resource(&provider, found.id).await?;
    match found.deleted_at {
        Some(_) => output::say(&format!("Restored {}.", restored.id)),
        None => output::say(&format!("{} was not removed.", restored.id)),
    }
    let Some(target) = target else {
        output::say("Say -a <app> to have an app use it again.");
        return if args.json { output::json(&restored) } else { Ok(()) };
    };
    let linked = target.controller.add_resource_app(&provider, restored.id, &target.name).await;
    let linked = linked.map_err(|err| target.explained(err))?;
    use_resource(&target, &linked, own).await?;
    if args.json { output::json(&linked) } else { Ok(()) }
}

/// Deletes what is no longer kept of the app.
pub(crate) async fn collect(session: &Session, args: Listing) -> anyhow::Result<()> {
    let target = session.app()?;
    let done =
        target.controller.collect(&target.name).await.map_err(|err| target.explained(err))?;
    if args.json {
        return output::json(&done);
    }
    let kib = done.bytes.div_ceil(1024);
    Ok(output::data(&format!(
        "Deleted {} releases, {} artifacts and {} blobs ({kib} KiB).",
        done.releases, done.artifacts, done.blobs
    ))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource() -> Resource {
        Resource {
            id: ResourceId::random(),
            provider: ProviderId::random(),
            external_id: "x".into(),
            env: BTreeMap::new(),
            apps: vec![],
            created_at: jiff::Timestamp::UNIX_EPOCH,
            deleted_at: None,
            purge_at: None,
            purging: false,
        }
    }

    #[test]
    fn a_provider_means_the_only_resource_of_it() {
        let (one, two) = (resource(), resource());
        let two = Resource { provider: one.provider, ..two };
        let names = [(one.provider, "postgres".to_owned())].into();
        let both = [one.clone(), two.clone()];
        assert_eq!(chosen(&both[..1], &names, "postgres").unwrap().id, one.id);
        assert_eq!(chosen(&both, &names, &two.id.to_string()).unwrap().id, two.id);
        assert!(chosen(&both, &names, "postgres").is_err());
        assert!(chosen(&[], &names, "postgres").is_err());
    }
}
