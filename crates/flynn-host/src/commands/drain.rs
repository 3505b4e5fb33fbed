//! `flynn-host drain`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Write, stdout},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use api::{
    cluster::TAG_DRAINING,
    host::{ActiveJob, META_APP_NAME, META_OMNI, META_TYPE, Status},
};
use api_client::Error;
use host_client::Host;
use jiff::Timestamp;

use super::{host, key_of, print_json, said};
use crate::config::Client;

/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// How long what was stopped at the deadline may take. Then it is killed, whatever its stop timeout is.
const STOPPED: Duration = Duration::from_secs(120);
/// What is killed is gone in this time.
const KILLED: Duration = Duration::from_secs(30);

const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;

/// What is left on a host.
struct Left {
    /// What is to go.
    leaving: Vec<ActiveJob>,
    /// What keeps data there and cannot be started elsewhere.
    bound: BTreeSet<String>,
}

pub(super) async fn drain(
    id: &str,
    deadline: Duration,
    undo: bool,
    client: &Client,
) -> anyhow::Result<()> {
    let hosts = host(client)?.hosts().await?;
    let Some(one) = hosts.iter().find(|one| one.id == id) else {
        bail!("the cluster has no host {id}; see flynn-host list");
    };
    let Some(api) = &one.api else {
        bail!("{id} is away: there is nothing to empty. Take it out with: flynn-host remove {id}");
    };
    let one = Host::new(format!("http://{api}"), Some(key_of(client)?));
    let value = if undo { String::new() } else { Timestamp::now().to_string() };
    one.set_tags(&BTreeMap::from([(TAG_DRAINING.to_owned(), value)])).await?;
    if undo {
        return said(client, &format!("{id} is used again"));
    }
    if !hosts.iter().any(|other| other.id != id && other.up && !other.draining) {
        said(
            client,
            "There is no other host to start anything on: what runs here stays until the deadline",
        )?;
    }
    let left = emptied(&one, deadline, client).await?;
    if client.json {
        return print_json(&serde_json::json!({ "id": id, "bound": left.bound }));
    }
    let mut out = stdout().lock();
    if left.bound.is_empty() {
        return Ok(writeln!(
            out,
            "{id} is empty. Take it out of the cluster with: flynn-host remove {id}"
        )?);
    }
    let bound = left.bound.into_iter().collect::<Vec<_>>().join(", ");
    Ok(writeln!(out, "{id} is empty but for what keeps its data there: {bound}")?)
}

async fn emptied(one: &Host, deadline: Duration, client: &Client) -> anyhow::Result<Left> {
    let start = Instant::now();
    let (mut told, mut stopped, mut killed) = (usize::MAX, false, false);
    loop {
        let left = left(one).await?;
        let count = left.leaving.len();
        if count == 0 {
            return Ok(left);
        }
        if count != told {
            said(client, &format!("{count} jobs to go"))?;
            told = count;
        }
        if start.elapsed() > deadline && !stopped {
            for job in &left.leaving {
                said(client, &format!("stopping {} ({})", name(job), job.job.id))?;
                stop(one, job).await.with_context(|| format!("stopping {}", job.job.id))?;
            }
            stopped = true;
        }
        if start.elapsed() > deadline + STOPPED && !killed {
            for job in &left.leaving {
                said(client, &format!("killing {} ({})", name(job), job.job.id))?;
                gone_is_well(one.signal(job.job.id, SIGKILL).await)
                    .with_context(|| format!("killing {}", job.job.id))?;
            }
            killed = true;
        }
        if start.elapsed() > deadline + STOPPED + KILLED {
            bail!(
                "{count} jobs do not end: {}",
                left.leaving.iter().map(name).collect::<Vec<_>>().join(", ")
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Stops a job. One that was told already, and takes its time because somebody uses it still, is told again: the
/// platform's own parts end at once then.
async fn stop(one: &Host, job: &ActiveJob) -> Result<(), Error> {
    gone_is_well(match job.status {
        Status::Stopping => one.signal(job.job.id, SIGTERM).await,
        _ => one.stop_job(job.job.id).await,
    })
}

/// It may have ended since it was listed.
fn gone_is_well(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(err) if err.is_not_found() || err.is_conflict() => Ok(()),
        done => done,
    }
}

async fn left(one: &Host) -> anyhow::Result<Left> {
    let jobs = one.jobs().await?.into_values();
    let active =
        jobs.filter(|job| job.status.is_active() && !job.job.metadata.contains_key(META_OMNI));
    let (bound, leaving): (Vec<_>, Vec<_>) =
        active.partition(|job| !job.job.config.volumes.is_empty());
    Ok(Left { leaving, bound: bound.iter().map(name).collect() })
}

fn name(job: &ActiveJob) -> String {
    let meta = |key| job.job.metadata.get(key).map_or("-", String::as_str);
    format!("{}/{}", meta(META_APP_NAME), meta(META_TYPE))
}
