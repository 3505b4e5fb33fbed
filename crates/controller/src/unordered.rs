//! One-off jobs that were recorded and never ordered.
//!
//! A job is recorded before it is ordered, so a controller that ends in between leaves one that starts for ever. Every
//! controller looks for jobs that have been starting for long, and asks their hosts for them: what a host does not know was
//! not ordered, and what was to run on a host that is gone does not run. If it was ordered after all, its host has the last
//! word.

use std::{collections::BTreeMap, time::Duration};

use api::{host::EndReason, id::JobId};
use futures_util::{StreamExt, stream};
use host_client::Host;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{
    error::{Error, Result},
    server::Controller,
    store::{self, Tx},
};

/// An order that its host has not heard of after this time will not come.
const ORDER_TIMEOUT: Duration = Duration::from_secs(120);
/// Time from one look at the jobs to the next.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Longest time the questions to one host may take; what was not asked is asked at a later look.
const HOST_TIMEOUT: Duration = Duration::from_secs(10);
/// Hosts asked at a time.
const HOSTS_AT_ONCE: usize = 16;

/// Looks after such jobs until the daemon stops.
pub(crate) async fn keep(controller: Controller, stop: CancellationToken) {
    let mut tick = interval(LOOK_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        match stop.run_until_cancelled(look(&controller)).await {
            Some(Ok(())) => {}
            Some(Err(err)) => {
                // Every request tells of a database that is away.
                debug!(error = &err as &dyn std::error::Error, "jobs that start are not looked at");
            }
            None => return,
        }
    }
}

async fn look(controller: &Controller) -> Result<()> {
    let jobs = {
        let client = controller.db.client().await?;
        store::jobs::long_starting(&client, ORDER_TIMEOUT).await?
    };
    let mut by_host: BTreeMap<String, Vec<JobId>> = BTreeMap::new();
    for (host, job) in jobs {
        by_host.entry(host).or_default().push(job);
    }
    let asked =
        stream::iter(by_host).for_each_concurrent(HOSTS_AT_ONCE, |(host, jobs)| async move {
            let settled = async {
                let whereabouts = find(controller, &host).await?;
                for job in jobs {
                    settle(controller, &host, &whereabouts, job).await?;
                }
                Ok::<_, Error>(())
            };
            match timeout(HOST_TIMEOUT, settled).await {
                Ok(Ok(())) => {}
                Ok(Err(err)) => {
                    let error = &err as &dyn std::error::Error;
                    debug!(error, host.id = %host, "host {host} does not say which jobs it has");
                }
                Err(_) => {
                    debug!(host.id = %host, "host {host} does not say in time which jobs it has")
                }
            }
        });
    asked.await;
    Ok(())
}

/// Records that a one-off job was never ordered, if it has been starting for longer than an order takes to reach its host
/// and that does not know it or is gone. Returns whether the job has ended: others may have found out the same.
pub(crate) async fn settle_overdue(
    controller: &Controller,
    host: &str,
    job: JobId,
) -> Result<bool> {
    let is_overdue = {
        let client = controller.db.client().await?;
        store::jobs::is_long_starting(&client, job, ORDER_TIMEOUT).await?
    };
    if is_overdue {
        let whereabouts = find(controller, host).await?;
        settle(controller, host, &whereabouts, job).await?;
    }
    let client = controller.db.client().await?;
    store::jobs::has_ended(&client, job).await
}

/// Where a host is.
enum Whereabouts {
    There(Host),
    Gone,
}

async fn find(controller: &Controller, host: &str) -> Result<Whereabouts> {
    match controller.neighbours.host(host) {
        Ok(there) => Ok(Whereabouts::There(there)),
        Err(_) if controller.neighbours.is_gone(host).await? => Ok(Whereabouts::Gone),
        Err(away) => Err(away),
    }
}

/// Records that a job which is overdue was never ordered, if its host does not know it or is gone.
async fn settle(
    controller: &Controller,
    host: &str,
    whereabouts: &Whereabouts,
    job: JobId,
) -> Result<()> {
    let why = match whereabouts {
        Whereabouts::There(asked) => match asked.job(job).await {
            Ok(_) => return Ok(()),
            Err(err) if err.is_not_found() => {
                format!("it was not ordered: host {host} does not know it")
            }
            Err(err) => return Err(Error::neighbour("asking the host for the job")(err)),
        },
        Whereabouts::Gone => format!("its host {host} left the cluster and never told of it"),
    };
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let is_new = store::jobs::never_started(&mut tx, job, EndReason::HostLost, &why).await?;
    tx.commit().await?;
    if is_new {
        info!(job.id = %job, host.id = host, "job {job} does not start: {why}");
    }
    Ok(())
}
