//! What was removed is destroyed: resources at their providers, after the grace in which they can be restored, and what a
//! provider made for an answer that was lost. Tried until it is done, by any controller; a provider that does not answer
//! holds up no other.

use std::time::Duration;

use api::{
    controller::{Provider, Resource},
    id::ProviderId,
};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    error::{Error, Result},
    neighbours::Effect,
    server::Controller,
    store::{
        self, Tx,
        provisionings::{Lost, Verdict},
    },
};

/// Longest time between two looks for what is due, whatever the grace.
const INTERVAL_MAX: Duration = Duration::from_secs(30);
/// Requests to all providers at a time.
const AT_ONCE: usize = 32;
/// Of these to one provider: one that hangs takes no more places, so that it takes many that hang to hold up another.
const OF_ONE: i64 = 2;

/// What is being done, each with the provider that is asked.
type Works = FuturesUnordered<BoxFuture<'static, ProviderId>>;

/// Destroys what is due until the daemon stops, and what was begun to its end.
pub(crate) async fn keep(controller: Controller, stop: CancellationToken) {
    let pause = (controller.resource_grace / 4).clamp(Duration::from_millis(100), INTERVAL_MAX);
    let mut tick = interval(pause);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut works, mut busy) = (Works::new(), Vec::new());
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
            // There is a place for what else is due.
            Some(provider) = works.next() => forget_one(&mut busy, provider),
        }
        match begin(&controller, &mut busy).await {
            Ok(begun) => works.extend(begun),
            // Every request tells of a database that is away.
            Err(err) => debug!(error = &err as &dyn std::error::Error, "purges wait"),
        }
    }
    // Each has a timeout, and the daemon waits for it. One that is cut off would wait some minutes for another controller, and
    // may be half done.
    while works.next().await.is_some() {}
}

/// A request to this provider has ended.
fn forget_one(busy: &mut Vec<ProviderId>, provider: ProviderId) {
    if let Some(at) = busy.iter().position(|one| *one == provider) {
        busy.swap_remove(at);
    }
}

/// Takes what is due, as far as there are places, in all and for its provider. `busy` has a provider for each request.
async fn begin(
    controller: &Controller,
    busy: &mut Vec<ProviderId>,
) -> Result<Vec<BoxFuture<'static, ProviderId>>> {
    let room =
        |busy: &[ProviderId]| i64::try_from(AT_ONCE.saturating_sub(busy.len())).unwrap_or_default();
    let mut begun: Vec<BoxFuture<'static, ProviderId>> = Vec::new();
    if room(busy) == 0 {
        return Ok(begun);
    }
    let client = controller.db.client().await?;
    store::resources::date(&client, controller.resource_grace).await?;
    for resource in store::resources::take_due(&client, busy, OF_ONE, room(busy)).await? {
        busy.push(resource.provider);
        begun.push(Box::pin(purge(controller.clone(), resource)));
    }
    // What was taken is begun, whatever becomes of the rest.
    match store::provisionings::take(&client, busy, OF_ONE, room(busy)).await {
        Ok(lost) => {
            for lost in lost {
                busy.push(lost.provider);
                begun.push(Box::pin(take_back(controller.clone(), lost)));
            }
        }
        Err(err) => debug!(error = &err as &dyn std::error::Error, "what was lost waits"),
    }
    Ok(begun)
}

async fn purge(controller: Controller, resource: Resource) -> ProviderId {
    if let Err(err) = destroy(&controller, &resource).await {
        let error = &err as &dyn std::error::Error;
        warn!(error, resource.id = %resource.id, "the purge of resource {} waits", resource.id);
    }
    resource.provider
}

async fn take_back(controller: Controller, lost: Lost) -> ProviderId {
    let destroyed = destroy_lost(&controller, &lost).await;
    if destroyed.as_ref().is_err_and(Error::is_answered)
        && let Ok(client) = controller.db.client().await
    {
        // Otherwise, that is known when the time has passed.
        let _ = store::provisionings::answered(&client, lost.id).await;
    }
    if let Err(err) = destroyed {
        let error = &err as &dyn std::error::Error;
        warn!(error, resource.id = %lost.id, "what was made for resource {} is left over", lost.id);
    }
    lost.provider
}

async fn asked(
    controller: &Controller,
    provider: ProviderId,
) -> Result<(Provider, Option<String>)> {
    let client = controller.db.client().await?;
    let provider = store::providers::find(&client, &provider.to_string()).await?;
    let key = store::providers::key(&client, provider.id).await?;
    Ok((provider, key))
}

async fn destroy(controller: &Controller, resource: &Resource) -> Result<()> {
    let (provider, key) = asked(controller, resource.provider).await?;
    let asked = controller.neighbours.deprovision(&provider, key, &resource.external_id).await;
    let mut client = controller.db.client().await?;
    if asked.as_ref().is_err_and(Error::is_answered) {
        store::resources::answered(&client, resource.id).await?;
    }
    asked?;
    let mut tx = Tx::begin(&mut client).await?;
    store::resources::forget(&mut tx, resource, "resource_purge").await?;
    tx.commit().await?;
    info!(resource.id = %resource.id, "{} destroyed resource {}", provider.name, resource.id);
    Ok(())
}

/// Asks once more under the same id, to learn the provider's own, and has that destroyed unless it is somebody's.
async fn destroy_lost(controller: &Controller, lost: &Lost) -> Result<()> {
    let (provider, key) = asked(controller, lost.provider).await?;
    let made = match &lost.external_id {
        Some(known) => Ok(known.clone()),
        None => {
            let again =
                controller.neighbours.provision(&provider, key.clone(), lost.id, &lost.config);
            again.await.map(|made| made.id)
        }
    };
    match made {
        Ok(made) => {
            match condemn(controller, lost, &made).await? {
                Verdict::Condemned => {}
                Verdict::Left => {
                    info!(resource.id = %lost.id, "what {} made for a lost answer stays", provider.name);
                    return Ok(());
                }
                Verdict::Waits => {
                    let client = controller.db.client().await?;
                    return store::provisionings::answered(&client, lost.id).await;
                }
            }
            controller.neighbours.deprovision(&provider, key, &made).await?;
        }
        // It will never make it.
        Err(err) if err.effect() == Effect::Never => {}
        Err(err) => return Err(err),
    }
    store::provisionings::end(&controller.db.client().await?, lost.id).await?;
    info!(resource.id = %lost.id, "of {} nothing is left of an answer that was lost", provider.name);
    Ok(())
}

/// From here on nobody can record it; unless it is recorded already.
async fn condemn(controller: &Controller, lost: &Lost, external_id: &str) -> Result<Verdict> {
    let mut client = controller.db.client().await?;
    let tx = Tx::begin(&mut client).await?;
    let verdict = store::provisionings::condemn(&tx, lost, external_id).await?;
    tx.commit().await?;
    Ok(verdict)
}
