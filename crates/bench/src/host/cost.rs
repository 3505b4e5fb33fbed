//! What the daemons of a host use.

use std::time::Duration;

use api::host::Job;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, sleep};

use super::jobs::{Jobs, sleeper};
use crate::{
    figure::{Better, Figure, GOAL},
    usage,
};

const DAEMONS: [&str; 2] = ["discoverd", "flynn-host"];

/// The goals are those of the whole idle control plane without its databases: MiB, and percent of a core.
const MEMORY_GOAL: f64 = 120.0;
const CPU_GOAL: f64 = 2.0;

/// Jobs that are started or ended at once.
const AT_ONCE: usize = 8;

/// What starting many jobs left to do is done after so long.
const REST: Duration = Duration::from_secs(5);

pub(super) async fn run(jobs: &Jobs, crowd: usize, seconds: u64) -> anyhow::Result<()> {
    measure("idle", seconds).await?;
    let sleepers: Vec<Job> = (0..crowd).map(|_| sleeper()).collect();
    let started = started(jobs, &sleepers).await;
    let measured = match started {
        Ok(()) => measure(&format!("with-{crowd}-jobs"), seconds).await,
        failed => failed,
    };
    // Also what a failure left.
    let ends = stream::iter(&sleepers).map(|job| jobs.end(job.id)).buffer_unordered(AT_ONCE);
    let ended = ends.collect::<Vec<_>>().await;
    measured?;
    ended.into_iter().collect()
}

async fn started(jobs: &Jobs, sleepers: &[Job]) -> anyhow::Result<()> {
    let starts = stream::iter(sleepers).map(|job| jobs.start(job)).buffer_unordered(AT_ONCE);
    starts.try_collect::<Vec<()>>().await?;
    sleep(REST).await;
    Ok(())
}

async fn measure(when: &str, seconds: u64) -> anyhow::Result<()> {
    let (began, before) = (Instant::now(), cpus()?);
    sleep(Duration::from_secs(seconds)).await;
    let (passed, after) = (began.elapsed().as_secs_f64(), cpus()?);
    for (n, daemon) in DAEMONS.iter().enumerate() {
        let pss =
            usage::pids_of(daemon)?.into_iter().map(usage::pss).sum::<anyhow::Result<u64>>()?;
        let pss = pss as f64 / f64::from(1 << 20);
        let share = (after[n] - before[n]).as_secs_f64() / passed * 100.0;
        let figure = |what, unit, ours, goal| {
            let name = format!("{daemon}-{what}-{when}");
            Figure { name: &name, unit, better: Better::Lower, ours, rival: (GOAL, goal) }.print();
        };
        figure("pss", "MiB", pss, MEMORY_GOAL);
        figure("cpu", "%", share, CPU_GOAL);
    }
    Ok(())
}

/// CPU time of each daemon.
fn cpus() -> anyhow::Result<Vec<Duration>> {
    let of = |daemon| usage::pids_of(daemon)?.into_iter().map(usage::process_cpu).sum();
    DAEMONS.into_iter().map(of).collect()
}
