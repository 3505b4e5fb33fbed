//! Watching the limits that do more than refuse: memory, where the kernel kills, and disk and time, where only we do.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::host::{ActiveJob, Limits};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until},
};
use tracing::warn;

use super::{container::scratch_dir, deaths::Death, life::Process};
use crate::{
    backend::engine::{Engine, EngineError},
    disk,
    domain::limits::{
        TOO_DEEP, disk_sentence, killed_sentence, may_have_passed, processes_sentence, refusals,
        rest, time_sentence,
    },
    host::Host,
};

/// How often it is looked whether a job may have passed its limit on disk since it was measured.
const LOOK: Duration = Duration::from_secs(1);

/// Measures what jobs write, one at a time and with rests: every file is walked, and two hundred jobs must not cost more
/// than a few.
#[derive(Debug)]
pub(crate) struct Layers {
    engine: Engine,
    every: Duration,
    /// When the next one may be measured.
    turn: Mutex<Instant>,
}

/// Why a job is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// It is time.
    Turn,
    /// It may have passed its limit.
    Suspicion,
}

/// A job's disk.
#[derive(Debug)]
struct Measured {
    /// Bytes; `None` if there is no such container.
    used: Option<u64>,
    /// How long it took to know.
    took: Duration,
}

/// A job's disk is not known.
#[derive(Debug, thiserror::Error)]
enum MeasureError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the folders of its image's volumes cannot be read")]
    Scratch(#[source] io::Error),
}

impl Layers {
    /// Measures each container that often, or less often if it takes long.
    pub(crate) fn new(engine: Engine, every: Duration) -> Self {
        Self { engine, every, turn: Mutex::new(Instant::now()) }
    }

    /// What a container wrote into its layer and into the folders that its image keeps outside.
    async fn size(
        &self,
        container: &str,
        scratch: &Path,
        why: Occasion,
    ) -> Result<Measured, MeasureError> {
        let mut turn = loop {
            let turn = self.turn.lock().await;
            let at = *turn;
            if why == Occasion::Suspicion || at <= Instant::now() {
                break turn;
            }
            // Others, which cannot wait, may pass meanwhile.
            drop(turn);
            sleep_until(at).await;
        };
        let begun = Instant::now();
        let scratch = scratch.to_owned();
        let below = tokio::task::spawn_blocking(move || match disk::used_below(&scratch) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(0),
            used => used,
        });
        let (layer, below) = tokio::join!(self.engine.layer_size(container), below);
        let took = begun.elapsed();
        *turn = Instant::now() + rest(took);
        let below = below.map_err(io::Error::other).flatten().map_err(MeasureError::Scratch)?;
        Ok(Measured { used: layer?.map(|layer| layer + below), took })
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
    /// It is to be stopped.
    Time {
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
    scratch: PathBuf,
    /// When its disk is measured next, if nothing happens before.
    next: Instant,
    /// What it had written when it was measured last, and what was free then.
    used: u64,
    free: Option<u64>,
    /// How long that took: who is quick to measure is not to wait for who is slow.
    took: Duration,
    /// How long it may run, and when that is over.
    time: Option<(Duration, Instant)>,
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
            scratch: scratch_dir(host, active.job.id),
            next: Instant::now() + host.layers.every,
            used: 0,
            free: free(process.pid),
            took: Duration::ZERO,
            time: active.job.config.time_limit_seconds.map(|seconds| {
                let limit = Duration::from_secs(seconds.into());
                (limit, Instant::now() + limit.saturating_sub(process.ran))
            }),
        }
    }

    /// Waits until a limit is passed. It may be given up and asked again.
    pub(super) async fn passed(&mut self) -> Breach {
        loop {
            tokio::select! {
                () = self.death.killed_for_memory() => {
                    return Breach::Memory { said: killed_sentence(self.limits.memory) };
                }
                said = timed_out(self.time) => return Breach::Time { said },
                () = sleep_until(self.next.min(Instant::now() + LOOK)) => {}
            }
            if refused(self.pid).is_some_and(|refused| refused > self.refusals) {
                self.refusals = u64::MAX;
                return Breach::Processes { said: processes_sentence(self.limits.max_procs) };
            }
            let why = match free(self.pid) {
                _ if Instant::now() >= self.next => Occasion::Turn,
                now if self.is_suspect(now) => Occasion::Suspicion,
                _ => continue,
            };
            if let Some(said) = self.measured(why).await {
                return Breach::Disk { said };
            }
            self.next = Instant::now() + self.host.layers.every;
        }
    }

    fn is_suspect(&self, free_now: Option<u64>) -> bool {
        let passed = |(then, now)| may_have_passed(self.limits.temp_disk, self.used, then, now);
        self.free.zip(free_now).is_some_and(passed)
    }

    /// Measures what it wrote: why it is to be stopped, if it is.
    async fn measured(&mut self, why: Occasion) -> Option<String> {
        if why == Occasion::Suspicion {
            // Twice as long as it takes, so that no job keeps the engine busy with itself alone.
            sleep(self.took * 2).await;
        }
        let limit = self.limits.temp_disk;
        self.free = free(self.pid);
        match self.host.layers.size(&self.container, &self.scratch, why).await {
            Ok(Measured { used: Some(used), .. }) if used > limit => {
                return Some(disk_sentence(used, limit));
            }
            Ok(Measured { used, took }) => {
                self.used = used.unwrap_or_default();
                self.took = took;
            }
            Err(MeasureError::Scratch(err)) if err.kind() == io::ErrorKind::InvalidFilename => {
                return Some(TOO_DEEP.into());
            }
            Err(err) => warn!(error = &err as &dyn Error, "a job's disk cannot be measured"),
        }
        None
    }
}

/// What is free where a process writes, as it sees it.
fn free(pid: i64) -> Option<u64> {
    let stat = rustix::fs::statvfs(format!("/proc/{pid}/root")).ok().filter(|_| pid > 0)?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Waits until the time of a process is over, if it has any; what its owner is told.
async fn timed_out(time: Option<(Duration, Instant)>) -> String {
    match time {
        Some((limit, over)) => {
            sleep_until(over).await;
            time_sentence(limit)
        }
        None => std::future::pending().await,
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
