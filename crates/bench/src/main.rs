#![doc = include_str!("../README.md")]

mod control;
mod discoverd;
mod figure;
mod host;
mod router;
mod sampi;
mod usage;

use clap::Parser;

/// Measures the numbers the design promises, each against its rival or goal.
#[derive(Debug, Parser)]
#[command(name = "bench")]
enum Bench {
    /// The scheduler's plans and sampi's commits in this process.
    Sampi {
        /// A look at whether it works, in seconds.
        #[arg(long)]
        small: bool,
    },
    /// discoverd and etcd as processes of this run.
    Discoverd {
        /// A look at whether it works, in seconds.
        #[arg(long)]
        small: bool,
    },
    /// The controller as a process of this run, on a Postgres of its own.
    Control {
        /// A look at whether it works, in seconds.
        #[arg(long)]
        small: bool,
    },
    /// strowger, HAProxy, nginx and Caddy as processes of this run, before the same backends.
    Router {
        /// A look at whether it works, in seconds.
        #[arg(long)]
        small: bool,
        /// How often each is measured, in turn.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=5))]
        rounds: u8,
    },
    /// flynn-host and the engine of the cluster that runs here.
    Host {
        /// A look at whether it works, in seconds.
        #[arg(long)]
        small: bool,
        /// Where flynn-host keeps its data.
        #[arg(long, env = "FLYNN_DATA_DIR", default_value = "/var/lib/flynn")]
        data_dir: std::path::PathBuf,
        /// An app with a process type `web`, which is scaled up and down.
        #[arg(long, default_value = "node-demo")]
        app: String,
    },
    /// Watches a service many times; the discoverd benchmark's other process.
    #[command(hide = true)]
    Watchers(discoverd::Watchers),
}

// One thread: whoever measures shall not use the cores of what is measured, and children end with the thread that made
// them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Bench::parse() {
        Bench::Sampi { small } => sampi::run(small),
        Bench::Discoverd { small } => discoverd::run(small).await,
        Bench::Control { small } => control::run(small).await,
        Bench::Router { small, rounds } => router::run(small, rounds.into()).await,
        Bench::Host { small, data_dir, app } => host::run(small, &data_dir, &app).await,
        Bench::Watchers(watchers) => watchers.run().await,
    }
}
