#![expect(missing_docs, reason = "a program")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it is for")]

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use simulator::Coverage;

/// Plays seeds until their number or the time is over; the first one that fails ends it.
#[derive(Debug, Parser)]
#[command(name = "simulator")]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Seconds after which no other is begun.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut coverage = Coverage::default();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        if Instant::now() >= end {
            break;
        }
        match simulator::run(seed) {
            Ok(one) => coverage.add(&one),
            Err(failure) => {
                eprintln!("{failure}\nplay it again: simulator --seed {seed}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{coverage}");
    ExitCode::SUCCESS
}
