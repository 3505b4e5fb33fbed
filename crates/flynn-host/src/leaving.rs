//! What a host does that was taken out of its cluster: it ends all it runs, keeps its data, and stays away.
//!
//! One that was removed while it was lost has nobody to tell it but the others, whose tunnels refuse it: they answer that one
//! question to whoever asks. A host that is merely not found is not removed: what recovering etcd lost may be its record.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use keyspace::Keyspace;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::{
    backend::engine::{Engine, EngineError, Listed},
    config::Config,
    disk::{self, Durable},
    domain::{job::Observed, manifest, spec::LABEL_HOST},
    etcd_restore::{self, LABEL_RESTORES},
    grid::HOSTS,
    host::Host,
    identity::Folders,
    layer0::{ETCD, LABEL_DIGEST},
};

/// Below it: a key a host that was removed, whose value is when that one had joined.
pub(crate) const REMOVED: &str = "/flynn/removed/";
/// What takes longer to stop is removed with its container.
const STOPPING: Duration = Duration::from_secs(150);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// `host/removed.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Left {
    /// What its operator is told.
    pub(crate) why: String,
    /// When it was.
    pub(crate) at: Timestamp,
}

/// What another host answers to one that asks whether it was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Whether it was.
    pub(crate) removed: bool,
}

/// The key and the value that say that a host was removed which had joined then.
pub(crate) fn tombstone(id: &str, joined_at: Timestamp) -> (String, String) {
    (format!("{REMOVED}{id}"), joined_at.to_string())
}

/// Whether a host was removed. `joined_at`, if it knows that, is when it joined: another machine may have its id by now.
pub(crate) async fn standing(
    etcd: &Keyspace,
    id: &str,
    joined_at: Option<Timestamp>,
) -> Result<Standing, keyspace::Error> {
    if etcd.get(&format!("{HOSTS}{id}")).await?.is_some() {
        return Ok(Standing { removed: false });
    }
    let found = etcd.get(&format!("{REMOVED}{id}")).await?;
    let removed = found.is_some_and(|found| {
        let then = std::str::from_utf8(&found.value).ok().and_then(|text| text.parse().ok());
        joined_at.is_none_or(|own| then == Some(own))
    });
    Ok(Standing { removed })
}

/// Ends everything this host runs, and then the daemon, for good: what is here stays, for whoever looks after the machine.
pub(crate) async fn leave(host: &Arc<Host>, why: &str) {
    error!("{why}");
    // Nothing is accepted any more.
    let _nobody = host.accepting.lock().await;
    let begun = Instant::now();
    let mut told = 0;
    loop {
        let active = host.registry.active();
        if active.is_empty() || begun.elapsed() >= STOPPING {
            break;
        }
        if told == 0 {
            told = active.len();
            warn!("stopping the {told} jobs of this host");
        }
        for job in active {
            host.registry.observe(job.job.id, Observed::Ordered);
        }
        sleep(PAUSE).await;
    }
    let left = Left { why: why.into(), at: Timestamp::now() };
    match disk::write_json(&host.folders.removed_file(), &left, Durable::Synced) {
        Ok(()) => {
            info!("{told} jobs were stopped; their data stays in {}", host.folders.root().display())
        }
        Err(err) => error!(error = %err, "it could not be noted that this host was removed"),
    }
    host.lifetime.end();
}

/// What a host that was removed says at every start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Gone {
    /// It was.
    #[error("{0}")]
    Removed(String),
    /// That is not known.
    #[error("host/removed.json cannot be read")]
    Io(#[from] std::io::Error),
    /// The engine.
    #[error("what this host ran could not be removed")]
    Engine(#[from] EngineError),
    /// What it ran is not known.
    #[error(transparent)]
    Manifest(#[from] anyhow::Error),
}

/// Refuses to start a host that was removed, once nothing of it runs any more.
pub(crate) async fn check(
    engine: &Engine,
    folders: &Folders,
    id: &str,
    config: &Config,
) -> Result<(), Gone> {
    let Some(left) = disk::read_json::<Left>(&folders.removed_file())? else { return Ok(()) };
    let services = manifest::ids(&config.manifest_text()?).map_err(anyhow::Error::from)?;
    let names = layer0_names(&config.prefix, &services);
    let mut ours = engine.listed(LABEL_DIGEST).await?;
    ours.extend(engine.listed(LABEL_RESTORES).await?);
    ours.retain(|one| names.contains(&one.name));
    ours.extend(engine.listed(&format!("{LABEL_HOST}={id}")).await?);
    for Listed { id, name, .. } in ours {
        info!("removing {name}");
        engine.remove(&id).await?;
    }
    Err(Gone::Removed(left.why))
}

/// The whole names of layer 0's containers: another installation's on this machine may begin as this one's do.
fn layer0_names(prefix: &str, services: &[String]) -> Vec<String> {
    let mut names: Vec<String> = services.iter().map(|id| format!("{prefix}-{id}")).collect();
    names.push(etcd_restore::container_name(&format!("{prefix}-{ETCD}")));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_here_of_layer_0_is_known_by_its_whole_name() {
        let services = manifest::ids(manifest::BUILT_IN).unwrap();
        let names = layer0_names("flynn", &services);
        for name in ["flynn-etcd", "flynn-etcd-restore", "flynn-discoverd"] {
            assert!(names.contains(&name.into()), "{name} is not in {names:?}");
        }
        // Of another installation, whose prefix is flynn-b.
        let others = layer0_names("flynn-b", &services);
        assert!(others.iter().all(|name| !names.contains(name)), "{others:?}");
    }
}
