//! What was removed is destroyed: resources at their providers, after the grace in which they can be restored, and what a
//! provider made for an answer that was lost. Tried until it is done, by any controller.

use std::time::Duration;

use api::controller::{Provider, Resource};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    error::Result,
    server::Controller,
    store::{self, Tx, resources::Lost},
};

/// Longest time between two looks for what is due, whatever the grace.
const INTERVAL_MAX: Duration = Duration::from_secs(30);
/// Resources of one look.
const AT_ONCE: i64 = 20;

/// Destroys what is due until the daemon stops.
pub(crate) async fn keep(controller: Controller, stop: CancellationToken) {
    let pause = (controller.resource_grace / 4).clamp(Duration::from_millis(100), INTERVAL_MAX);
    let mut tick = interval(pause);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let done = stop.run_until_cancelled(round(&controller)).await;
        if let Some(Err(err)) = done {
            // Every request tells of a database that is away.
            debug!(error = &err as &dyn std::error::Error, "purges wait");
        }
    }
}

async fn round(controller: &Controller) -> Result<()> {
    let (due, lost) = {
        let client = controller.db.client().await?;
        store::resources::date(&client, controller.resource_grace).await?;
        let due = store::resources::take_due(&client, AT_ONCE).await?;
        (due, store::resources::take_lost(&client, AT_ONCE).await?)
    };
    for resource in due {
        if let Err(err) = purge(controller, &resource).await {
            let error = &err as &dyn std::error::Error;
            warn!(error, resource.id = %resource.id, "the purge of resource {} waits", resource.id);
        }
    }
    for lost in lost {
        if let Err(err) = take_back(controller, &lost).await {
            let error = &err as &dyn std::error::Error;
            warn!(error, resource.id = %lost.id, "what was made for resource {} is left over", lost.id);
        }
    }
    Ok(())
}

async fn asked(controller: &Controller, provider: &str) -> Result<(Provider, Option<String>)> {
    let client = controller.db.client().await?;
    let provider = store::providers::find(&client, provider).await?;
    let key = store::providers::key(&client, provider.id).await?;
    Ok((provider, key))
}

async fn purge(controller: &Controller, resource: &Resource) -> Result<()> {
    let (provider, key) = asked(controller, &resource.provider.to_string()).await?;
    controller.neighbours.deprovision(&provider, key, &resource.external_id).await?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    store::resources::forget(&mut tx, resource).await?;
    tx.commit().await?;
    info!(resource.id = %resource.id, "{} destroyed resource {}", provider.name, resource.id);
    Ok(())
}

/// Asks once more under the same id, to learn the provider's own, and has that destroyed.
async fn take_back(controller: &Controller, lost: &Lost) -> Result<()> {
    let (provider, key) = asked(controller, &lost.provider.to_string()).await?;
    let made = controller.neighbours.provision(&provider, key.clone(), lost.id, &lost.config).await;
    match made {
        Ok(made) => controller.neighbours.deprovision(&provider, key, &made.id).await?,
        // It will never make it.
        Err(err) if err.is_refusal() => {}
        Err(err) => return Err(err),
    }
    store::resources::end_provisioning(&controller.db.client().await?, lost.id).await?;
    info!(resource.id = %lost.id, "{} made nothing for an answer that was lost", provider.name);
    Ok(())
}
