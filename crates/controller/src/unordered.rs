//! One-off jobs that were recorded and never ordered.
//!
//! A job is recorded before it is ordered, so a controller that ends in between leaves one that starts for ever. Every
//! controller looks for jobs that have been starting for long, and asks their hosts for them: what a host does not know was
//! not ordered, and what was to run on a host that is gone does not run. If it was ordered after all, its host has the last
//! word.

use std::{collections::BTreeMap, time::Duration};

use api::{
    controller::{Job, JobState},
    host::EndReason,
    id::JobId,
};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
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
                for job in jobs {
                    settle(controller, &host, job).await?;
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

/// Whether a one-off job has been starting for so long that its host must know it.
pub(crate) fn is_overdue(job: &Job) -> bool {
    let is_long_ago =
        |at: Timestamp| Timestamp::now().duration_since(at).unsigned_abs() > ORDER_TIMEOUT;
    job.kind.is_empty()
        && job.state == JobState::Starting
        && job.updated_at.is_some_and(is_long_ago)
}

/// Records that a job which is overdue was never ordered, if its host does not know it or is gone. Returns whether that is
/// so.
pub(crate) async fn settle(controller: &Controller, host: &str, job: JobId) -> Result<bool> {
    let why = match controller.neighbours.host(host) {
        Ok(asked) => match asked.job(job).await {
            Ok(_) => return Ok(false),
            Err(err) if err.is_not_found() => {
                format!("it was not ordered: host {host} does not know it")
            }
            Err(err) => return Err(Error::neighbour("asking the host for the job")(err)),
        },
        Err(away) => {
            if !controller.neighbours.is_gone(host).await? {
                return Err(away);
            }
            format!("its host {host} left the cluster and never told of it")
        }
    };
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    store::jobs::never_started(&mut tx, job, EndReason::HostLost, &why).await?;
    tx.commit().await?;
    info!(job.id = %job, host.id = host, "job {job} does not start: {why}");
    Ok(true)
}
