//! `deployment-cancel`, `deployment-strategy`, `deployment-timeout`, `deployment-batch-size`.

use std::collections::BTreeMap;

use anyhow::Context;
use api::{
    controller::{AppChange, Deployment, DeploymentStatus, META_BATCH_SIZE, Strategy},
    id::DeploymentId,
};
use clap::{Args, ValueEnum};

use crate::{
    args::Listing,
    output,
    session::{AppSession, Session},
};

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The deployment; what runs or waits if left out, the one that waits first
    deployment: Option<DeploymentId>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct StrategyArgs {
    /// How jobs are replaced from now on; shows how if left out
    strategy: Option<Way>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct TimeoutArgs {
    /// Seconds a step of a deployment may take from now on; shows how many if left out
    seconds: Option<u32>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct BatchSizeArgs {
    /// Jobs that `in-batches` replaces at a time, or 0 for as many as there are hosts; shows how many if left out
    size: Option<u32>,
    #[command(flatten)]
    listing: Listing,
}

/// The strategies, as they are typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Way {
    /// Type by type, one up, then one down
    OneByOne,
    /// All up, then all down
    AllAtOnce,
    /// As one by one, in batches
    InBatches,
    /// One down, then one up: for what holds a port of the host
    OneDownOneUp,
}

impl From<Way> for Strategy {
    fn from(way: Way) -> Self {
        match way {
            Way::OneByOne => Self::OneByOne,
            Way::AllAtOnce => Self::AllAtOnce,
            Way::InBatches => Self::InBatches,
            Way::OneDownOneUp => Self::OneDownOneUp,
        }
    }
}

pub(crate) async fn cancel(session: &Session, args: &CancelArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let id = match args.deployment {
        Some(id) => id,
        None => open(&target).await?.with_context(|| {
            format!(
                "nothing of {} is being deployed; `flynn deployments` shows what was",
                target.name
            )
        })?,
    };
    let asked = target.controller.cancel_deployment(id).await?;
    if asked.status == DeploymentStatus::Failed {
        output::say(&format!("Deployment {id} will not begin."));
        return if args.listing.json { output::json(&asked) } else { Ok(()) };
    }
    output::say(&format!("Deployment {id} goes back."));
    let ended = target.controller.wait_deployment(id, |_| {}).await?;
    output::say(ended.error.as_deref().unwrap_or("it was complete already"));
    if args.listing.json { output::json(&ended) } else { Ok(()) }
}

/// What waits or, if nothing does, what runs.
async fn open(target: &AppSession) -> anyhow::Result<Option<DeploymentId>> {
    let deployments = target.controller.deployments(&target.name).await;
    let deployments = deployments.map_err(|err| target.explained(err))?;
    let of = |status| deployments.iter().find(move |d: &&Deployment| d.status == status);
    let open = of(DeploymentStatus::Pending).or(of(DeploymentStatus::Running));
    Ok(open.map(|deployment| deployment.id))
}

pub(crate) async fn strategy(session: &Session, args: &StrategyArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let app = match args.strategy {
        Some(way) => {
            update(&target, AppChange { strategy: Some(way.into()), ..AppChange::default() })
                .await?
        }
        None => target.app().await?,
    };
    if args.listing.json {
        return output::json(&app.strategy);
    }
    let word = serde_json::to_value(app.strategy)?;
    Ok(output::data(word.as_str().unwrap_or_default())?)
}

pub(crate) async fn timeout(session: &Session, args: &TimeoutArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let app = match args.seconds {
        Some(_) => {
            update(&target, AppChange { deploy_timeout: args.seconds, ..AppChange::default() })
                .await?
        }
        None => target.app().await?,
    };
    // A number is JSON.
    Ok(output::data(&app.deploy_timeout.to_string())?)
}

pub(crate) async fn batch_size(session: &Session, args: &BatchSizeArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let app = match args.size {
        Some(size) => {
            let said = (size > 0).then(|| size.to_string());
            let meta = Some(BTreeMap::from([(META_BATCH_SIZE.to_owned(), said)]));
            update(&target, AppChange { meta, ..AppChange::default() }).await?
        }
        None => target.app().await?,
    };
    if args.listing.json {
        let size: Option<u32> = app.meta.get(META_BATCH_SIZE).and_then(|size| size.parse().ok());
        return output::json(&size);
    }
    let size = app.meta.get(META_BATCH_SIZE).map_or("as many as there are hosts", String::as_str);
    Ok(output::data(size)?)
}

async fn update(target: &AppSession, change: AppChange) -> anyhow::Result<api::controller::App> {
    let changed = target.controller.change_app(&target.name, &change).await;
    changed.map_err(|err| target.explained(err))
}
