//! One scheduler fills an empty cluster.

use anyhow::ensure;

use super::{
    RATE_GOAL,
    planner::{Planner, Spent, booked, commit},
    world::{Apps, Size, cluster},
};
use crate::{
    figure::{Better, Figure, GOAL},
    usage,
};

/// sampi and a scheduler with all they know of a million jobs: a small part of the machine that leads so many hosts.
const MEMORY_GOAL: f64 = 4096.0;

/// The rate when full, as a part of the rate when empty: flat.
const FLAT_GOAL: f64 = 1.0;

/// The lines of which each says the rate of a part of the way.
const LINES: usize = 10;

pub(super) fn run(size: &Size) -> anyhow::Result<()> {
    let mut cluster = cluster(size);
    let mut planner = Planner::new(size, 0)?;
    let mut apps = Apps::new(0);
    let (mut placed, mut rates, mut all) = (0, Vec::new(), Spent::default());
    for line in 1..=LINES {
        planner.spent = Spent::default();
        let (before, end) = (placed, size.jobs * line / LINES);
        while placed < end {
            let missing = size.round.min(end - placed);
            planner.want(apps.more(missing));
            let mut parts = planner.plan(&cluster)?;
            let commits: Vec<_> = booked(&mut planner.spent.committing, || {
                parts.iter_mut().map(|part| commit(&mut cluster, part)).collect()
            })?;
            for (part, commit) in parts.into_iter().zip(commits) {
                let host = part.host.clone();
                let jobs = planner.learn(part, commit).expect("nobody else changes the cluster");
                placed += jobs.len();
                planner.told(&host, jobs);
            }
        }
        let rate = (placed - before) as f64 / planner.spent.placing().as_secs_f64();
        rate_line(&format!("sampi-placements-to-{end}"), rate);
        rates.push(rate);
        all.observing += planner.spent.observing;
        all.planning += planner.spent.planning;
        all.committing += planner.spent.committing;
    }
    let kept: usize = cluster.state().hosts.values().map(|host| host.jobs.len()).sum();
    ensure!(kept == placed, "{placed} jobs were placed and {kept} are in the state");
    rate_line("sampi-placements", placed as f64 / all.placing().as_secs_f64());
    rate_line("sampi-placements-with-observing", placed as f64 / all.whole().as_secs_f64());
    let flat = rates[LINES - 1] / rates[0];
    let figure =
        |name, unit, better, ours, goal| Figure { name, unit, better, ours, rival: (GOAL, goal) };
    figure("sampi-full-to-empty", "x", Better::Higher, flat, FLAT_GOAL).print();
    let peak = usage::peak_rss()? as f64 / f64::from(1 << 20);
    figure("sampi-peak-rss", "MiB", Better::Lower, peak, MEMORY_GOAL).print();
    Ok(())
}

pub(super) fn rate_line(name: &str, rate: f64) {
    let rival = (GOAL, RATE_GOAL);
    Figure { name, unit: "/s", better: Better::Higher, ours: rate, rival }.print();
}
