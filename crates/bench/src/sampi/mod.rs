//! The cluster's memory and those who plan on it, without a network: what production runs between a request and an order.

mod fill;
mod planner;
mod together;
mod world;

use world::Size;

/// Placements a second, on one core.
const RATE_GOAL: f64 = 50_000.0;

pub(crate) fn run(small: bool) -> anyhow::Result<()> {
    let full = Size { hosts: 5_000, jobs: 1_000_000, round: 50_000 };
    let size = if small { full / 50 } else { full };
    fill::run(&size)?;
    for planners in [2, 8] {
        together::run(&size, planners)?;
    }
    Ok(())
}
