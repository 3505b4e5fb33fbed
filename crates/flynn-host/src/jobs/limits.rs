//! Watching the limits that do more than refuse: memory, where the kernel kills, and disk, where only we do.

use std::{error::Error, sync::Arc, time::Duration};

use api::host::{ActiveJob, Limits};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};
use tracing::warn;

use super::{deaths::Death, life::Process};
use crate::{
    backend::engine::{Engine, EngineError},
    domain::limits::{disk_sentence, killed_sentence, processes_sentence, refusals, rest},
    host::Host,
};

/// Measures what containers write, one at a time and with rests: the engine walks every file, and two hundred jobs must
/// not cost more than a few.
#[derive(Debug)]
pub(crate) struct Layers {
    engine: Engine,
    every: Duration,
    /// When the next one may be measured.
    turn: Mutex<Instant>,
}

impl Layers {
    /// Measures each container that often, or less often if it takes long.
    pub(crate) fn new(engine: Engine, every: Duration) -> Self {
        Self { engine, every, turn: Mutex::new(Instant::now()) }
    }

    async fn size(&self, container: &str) -> Result<Option<u64>, EngineError> {
        let mut turn = self.turn.lock().await;
        sleep_until(*turn).await;
        let begun = Instant::now();
        let size = self.engine.layer_size(container).await;
        *turn = Instant::now() + rest(begun.elapsed());
        size
    }
}

/// A limit was passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Breach {
    /// The kernel killed one of its processes, which need not be the first.
    Memory {
        /// What its owner is told.
        said: String,
    },
    /// It may start no more processes.
    Processes {
        /// What its owner is told.
        said: String,
    },
    /// It is to be stopped.
    Disk {
        /// What its owner is told.
        said: String,
    },
}

/// A process and its limits.
pub(super) struct Limited {
    host: Arc<Host>,
    container: String,
    limits: Limits,
    death: Death,
    pid: i64,
    /// Times a process was refused of which nothing is said: all, once it is said.
    refusals: u64,
    next: Instant,
}

impl Limited {
    /// Of a process that runs.
    pub(super) fn new(host: &Arc<Host>, active: &ActiveJob, process: &Process) -> Self {
        Self {
            host: host.clone(),
            container: process.container.clone(),
            limits: active.job.limits.clone(),
            death: process.death.clone(),
            pid: process.pid,
            // The first may have been refused before anybody looked.
            refusals: 0,
            next: Instant::now() + host.layers.every,
        }
    }

    /// Waits until a limit is passed. It may be given up and asked again.
    pub(super) async fn passed(&mut self) -> Breach {
        loop {
            tokio::select! {
                () = self.death.killed_for_memory() => {
                    return Breach::Memory { said: killed_sentence(self.limits.memory) };
                }
                () = sleep_until(self.next) => {}
            }
            if refused(self.pid).is_some_and(|refused| refused > self.refusals) {
                self.refusals = u64::MAX;
                return Breach::Processes { said: processes_sentence(self.limits.max_procs) };
            }
            let limit = self.limits.temp_disk;
            match self.host.layers.size(&self.container).await {
                Ok(Some(used)) if used > limit => {
                    return Breach::Disk { said: disk_sentence(used, limit) };
                }
                Ok(_) => {}
                Err(err) => warn!(error = &err as &dyn Error, "a job's disk cannot be measured"),
            }
            self.next = Instant::now() + self.host.layers.every;
        }
    }
}

/// How often a process was refused to a job, by its own view of its cgroup: in the first version of cgroups there is a
/// hierarchy for it, in the second it is one with the others.
fn refused(pid: i64) -> Option<u64> {
    let events = ["pids/pids.events", "pids.events"].into_iter().find_map(|file| {
        std::fs::read_to_string(format!("/proc/{pid}/root/sys/fs/cgroup/{file}")).ok()
    });
    refusals(&events?)
}
