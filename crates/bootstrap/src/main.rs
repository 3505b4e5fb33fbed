//! Brings layer 1 up from a manifest.
#![expect(clippy::print_stderr, reason = "a command that talks to an operator")]

use std::{io::Read, process::ExitCode};

use anyhow::Context;
use bootstrap::{
    cluster::Cluster,
    config::{self, Args},
    domain::{interpolate::Facts, manifest},
    run::{self, Reporter},
    state::State,
};
use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    match bootstrap(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("flynn-bootstrap: {err:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bootstrap(args: Args) -> anyhow::Result<()> {
    let text = match &args.manifest {
        None => config::DEFAULT_MANIFEST.to_owned(),
        Some(path) if path.as_os_str() == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("reading the manifest")?;
            text
        }
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("reading the manifest {}", path.display()))?,
    };
    let manifest = manifest::parse(&text)?;
    let cluster = Cluster::open(&args.data_dir, &args.discoverd, args.timeout)?;
    let mut state = State::open(&args.data_dir.join("bootstrap/state.json"))?;
    let mut reporter = Reporter { out: std::io::stdout(), json: args.json };
    cluster.until_hosts(args.min_hosts).await?;
    if state.is_new() {
        cluster.refuse_second_bootstrap().await?;
    }
    let facts = Facts {
        steps: state.results(),
        env: config::environment(),
        cluster_key: cluster.key.clone(),
        hosts: args.min_hosts,
    };
    run::run(&manifest, &cluster, &mut state, facts, &mut reporter).await?;
    Ok(())
}
