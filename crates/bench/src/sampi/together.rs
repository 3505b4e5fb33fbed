//! Several schedulers, each with apps of its own, plan on the same state and commit at once.

use std::time::Duration;

use super::{
    fill::rate_line,
    planner::{Planner, booked, commit},
    world::{Apps, Size, cluster},
};
use crate::figure::{Better, Figure, GOAL};

/// Each plans so much of a lone scheduler's round, until the cluster holds so much of all jobs.
const ROUND_PART: usize = 50;
const JOBS_PART: usize = 10;

/// Refused parts of all, in percent: more than one in two is more work lost than done.
const REFUSED_GOAL: f64 = 50.0;

pub(super) fn run(size: &Size, count: usize) -> anyhow::Result<()> {
    let mut cluster = cluster(size);
    let mut planners = Vec::new();
    for n in 0..count as u64 {
        planners.push((Planner::new(size, n.into())?, Apps::new(n)));
    }
    let (mut placed, mut committed, mut refused) = (0, 0_u32, 0_u32);
    let mut committing = Duration::ZERO;
    while placed < size.jobs / JOBS_PART {
        let mut turns = Vec::new();
        for (n, (planner, apps)) in planners.iter_mut().enumerate() {
            planner.want(apps.more(size.round / ROUND_PART));
            turns.extend(planner.plan(&cluster)?.into_iter().enumerate().map(|part| (part, n)));
        }
        // One part of each in turn: all of them planned before any of them committed.
        turns.sort_by_key(|&((turn, _), n)| (turn, n));
        let commits: Vec<_> = booked(&mut committing, || {
            turns.iter_mut().map(|((_, part), _)| commit(&mut cluster, part)).collect()
        })?;
        for (((_, part), n), commit) in turns.into_iter().zip(commits) {
            match planners[n].0.learn(part, commit) {
                Some(jobs) => (placed, committed) = (placed + jobs.len(), committed + 1),
                None => refused += 1,
            }
        }
    }
    let planning: Duration = planners.iter().map(|(planner, _)| planner.spent.planning).sum();
    let rate = placed as f64 / (planning + committing).as_secs_f64();
    rate_line(&format!("sampi-placements-of-{count}-schedulers"), rate);
    let share = f64::from(refused) / f64::from(committed + refused) * 100.0;
    Figure {
        name: &format!("sampi-refused-of-{count}-schedulers"),
        unit: "%",
        better: Better::Lower,
        ours: share,
        rival: (GOAL, REFUSED_GOAL),
    }
    .print();
    Ok(())
}
