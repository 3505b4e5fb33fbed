//! Figures of several proxies: strowger's, against the better one of those it has to beat.

use std::time::Duration;

use super::load::Load;
use crate::figure::{Better, Figure, Short, median};

/// Those it has to beat. Others are shown beside.
const RIVALS: [&str; 2] = ["haproxy", "nginx"];

/// A proxy under a load.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) load: Load,
    pub(super) cpu: Duration,
    /// The most memory it held, in bytes.
    pub(super) peak: u64,
}

/// What is told of it, its unit, and which is better.
type Told = (&'static str, &'static str, Better, fn(&Measured) -> f64);

const TOLD: [Told; 6] = [
    ("rate", "/s", Better::Higher, |one| one.load.rate),
    ("p50", "ms", Better::Lower, |one| one.load.quantiles[0]),
    ("p99", "ms", Better::Lower, |one| one.load.quantiles[1]),
    ("p99.9", "ms", Better::Lower, |one| one.load.quantiles[2]),
    ("cpu", "µs", Better::Lower, |one| one.cpu.as_secs_f64() * 1e6 / one.load.requests),
    ("peak", "MiB", Better::Lower, |one| one.peak as f64 / f64::from(1 << 20)),
];

/// Prints the medians of a scenario's rounds, each with the name of its proxy: strowger's first.
pub(super) fn report(scenario: &str, rounds: &[(&'static str, Vec<Measured>)]) {
    for (what, unit, better, of) in TOLD {
        let middle = |(name, all): &(&'static str, Vec<Measured>)| {
            (*name, median(&mut all.iter().map(of).collect::<Vec<_>>()))
        };
        let medians: Vec<_> = rounds.iter().map(middle).collect();
        print(&format!("router-{scenario}-{what}"), unit, better, &medians);
    }
    for (name, all) in rounds {
        let failed: u64 = all.iter().map(|one| one.load.failed).sum();
        if failed > 0 {
            note(&format!("{scenario}: {name} failed {failed} requests"));
        }
    }
}

/// Prints a figure of all proxies: strowger's first.
pub(super) fn print(name: &str, unit: &str, better: Better, all: &[(&'static str, f64)]) {
    let (ours, others) = all.split_first().expect("strowger is one of them");
    let rivals = others.iter().filter(|(name, _)| RIVALS.contains(name));
    let order = |a: &&(&str, f64), b: &&(&str, f64)| match better {
        Better::Higher => a.1.total_cmp(&b.1),
        Better::Lower => b.1.total_cmp(&a.1),
    };
    let Some(&rival) = rivals.max_by(order) else { return };
    Figure { name, unit, better, ours: ours.1, rival }.print();
    for (who, figure) in others.iter().filter(|other| other.0 != rival.0) {
        note(&format!("  {who}: {}{unit}", Short(*figure)));
    }
}

#[expect(clippy::print_stdout, reason = "what is said beside the figures")]
pub(super) fn note(text: &str) {
    println!("{text}");
}
