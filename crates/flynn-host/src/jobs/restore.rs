//! What this host knows when its daemon starts: the journal and the containers, compared.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    host::{ActiveJob, EndReason, Status},
    id::JobId,
};
use tracing::{info, warn};

use super::{
    journal::{Entry, Journal},
    life::{self, Origin},
    output::Output,
    registry::{log_folder, own_address},
    replace,
};
use crate::{
    backend::engine::Container,
    domain::{
        addresses::kind,
        job::{Cause, Observed},
        spec::{LABEL_ENTRY, LABEL_HOST, LABEL_JOB},
    },
    host::Host,
};

/// Takes up every job there is, and starts again the ones that must be: nothing that runs is stopped.
pub(crate) async fn restore(host: &Arc<Host>, journal: &Journal) -> anyhow::Result<()> {
    let mut entries: BTreeMap<JobId, Entry> =
        journal.read()?.into_iter().map(|entry| (entry.job.job.id, entry)).collect();
    let mut containers = containers(host).await?;
    for (id, container) in &containers {
        if !entries.contains_key(id)
            && let Some(entry) = described(container)
        {
            entries.insert(*id, entry);
        }
    }
    // Addresses first: nothing may be started on one that another job has.
    for entry in entries.values().filter(|entry| entry.job.status.is_active()) {
        claim(host, &entry.job);
    }
    // All are known before one runs: how far a replacement has come follows from both of its jobs.
    let mut taken_up = Vec::new();
    for (id, entry) in entries {
        let container = containers.remove(&id);
        taken_up.extend(take_up(host, entry, container).await?);
    }
    replace::resume(host, &taken_up);
    for one in taken_up {
        go_on(host, one);
    }
    for (id, container) in containers {
        warn!(job.id = %id, "removing a container nobody can tell the job of");
        host.engine.remove(&container.id).await?;
    }
    Ok(())
}

async fn containers(host: &Host) -> anyhow::Result<BTreeMap<JobId, Container>> {
    let mut all = BTreeMap::new();
    let label = format!("{LABEL_HOST}={}", host.settings.id);
    for id in host.engine.containers(&label).await? {
        let Some(container) = host.engine.container(&id).await? else { continue };
        match container.labels.get(LABEL_JOB).and_then(|id| id.parse().ok()) {
            Some(job) => _ = all.insert(job, container),
            None => warn!(container = %id, "a container of this host says no job"),
        }
    }
    Ok(all)
}

fn described(container: &Container) -> Option<Entry> {
    serde_json::from_str(container.labels.get(LABEL_ENTRY)?).ok()
}

fn claim(host: &Host, active: &ActiveJob) {
    let Some(address) = own_address(active) else { return };
    if !host.addresses.claim(active.job.id, address) {
        warn!(job.id = %active.job.id, %address, "two jobs have one address");
    }
}

/// A job that was not over when this daemon came.
pub(super) struct TakenUp {
    pub(super) active: ActiveJob,
    /// One that was started.
    pub(super) container: Option<Container>,
    same_boot: bool,
}

async fn take_up(
    host: &Arc<Host>,
    entry: Entry,
    container: Option<Container>,
) -> anyhow::Result<Option<TakenUp>> {
    let active = entry.job.clone();
    let id = active.job.id;
    if !active.status.is_active() {
        let ended = Arc::new(Output::ended(active.exit_status));
        host.registry.insert(entry, ended, None);
        if let Some(container) = container {
            host.engine.remove(&container.id).await?;
        }
        return Ok(None);
    }
    let folder = log_folder(&host.folders.logs(), id);
    let output = Output::open(&folder, active.job.config.stdin && container.is_none())?;
    let same_boot = entry.boot_id == host.settings.boot_id;
    host.registry.insert(entry, Arc::new(output), None);
    let container = match container {
        Some(created) if !created.was_started => {
            host.engine.remove(&created.id).await?;
            None
        }
        container => container,
    };
    Ok(Some(TakenUp { active, container, same_boot }))
}

fn go_on(host: &Arc<Host>, TakenUp { active, container, same_boot }: TakenUp) {
    let id = active.job.id;
    match container {
        Some(container) => {
            info!(job.id = %id, running = container.running, "took up job {id}");
            let serves = container.running && active.status == Status::Running;
            host.announcer.adopt(&active, serves);
            life::spawn(host, id, Origin::Adopted(container));
        }
        None => {
            host.announcer.adopt(&active, false);
            begin_again(host, &active, same_boot);
        }
    }
}

/// An accepted job without a process.
fn begin_again(host: &Arc<Host>, active: &ActiveJob, same_boot: bool) {
    let id = active.job.id;
    let never_started = active.status == Status::Starting && active.started_at.is_none();
    if active.status != Status::Stopping && !(never_started && same_boot) {
        // Not the program's doing, and nobody's order.
        let because = Cause { reason: EndReason::HostLost, said: "its host was restarted".into() };
        host.registry.observe(id, Observed::Ended { status: 137, because: Some(because) });
    }
    match host.registry.job(id) {
        Some(job) if job.status.is_active() => {
            info!(job.id = %id, "starting job {id} again");
            life::spawn(host, id, Origin::New);
        }
        _ => ended(host, active),
    }
}

fn ended(host: &Arc<Host>, active: &ActiveJob) {
    if let Some(output) = host.registry.output(active.job.id) {
        output.end(137);
    }
    if let Some(address) = own_address(active) {
        host.addresses.free(address, kind(&active.job), false);
        let (of, active) = (host.clone(), active.clone());
        host.lifetime.spawn("burial", move |stop| async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = of.announcer.until_acknowledged(&active, None) => of.addresses.acknowledge(address),
            }
        });
    }
}
