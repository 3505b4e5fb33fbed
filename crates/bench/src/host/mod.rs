//! flynn-host and discoverd of the cluster that runs here: how fast a job starts, and what they cost.

mod cost;
mod jobs;
mod scale;
mod starts;

use std::path::Path;

use jobs::Jobs;

use crate::figure::{Better, Figure, median};

pub(crate) async fn run(small: bool, data_dir: &Path, app: &str) -> anyhow::Result<()> {
    let (rounds, crowd, seconds) = if small { (3, 5, 2) } else { (30, 200, 10) };
    let jobs = Jobs::of(data_dir)?;
    starts::run(&jobs, rounds).await?;
    scale::run(&jobs, app, if small { 1 } else { 7 }).await?;
    cost::run(&jobs, crowd, seconds).await
}

/// Prints the median of some times, in milliseconds, beside that of the engine's.
fn against_engine(name: &'static str, mut ours: Vec<f64>, mut theirs: Vec<f64>) {
    Figure {
        name,
        unit: "ms",
        better: Better::Lower,
        ours: median(&mut ours),
        rival: ("engine", median(&mut theirs)),
    }
    .print();
}
