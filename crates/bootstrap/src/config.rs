//! What the command line says.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::Parser;

/// The manifest used when none is named.
pub const DEFAULT_MANIFEST: &str = include_str!("../../../bootstrap/manifest.json");

/// Brings layer 1 up from a manifest. Interrupted, it goes on where it was; finished, it changes nothing.
#[derive(Debug, Parser)]
#[command(name = "flynn-bootstrap", version)]
pub struct Args {
    /// The manifest; `-` reads it from standard input. Without one, the built-in manifest is used.
    pub manifest: Option<PathBuf>,
    /// Print one JSON object a line for each step that starts, ends or fails.
    #[arg(long)]
    pub json: bool,
    /// Where this host's Flynn keeps its data.
    #[arg(long, env = "FLYNN_DATA_DIR", default_value = "/var/lib/flynn")]
    pub data_dir: PathBuf,
    /// Where discoverd listens.
    #[arg(long, env = "DISCOVERD", default_value = "http://127.0.0.1:1111")]
    pub discoverd: String,
    /// How many hosts to wait for; what can run on several is started on several.
    #[arg(long, env = "FLYNN_MIN_HOSTS", default_value_t = 1)]
    pub min_hosts: usize,
    /// Longest time one step may take.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "120s")]
    pub timeout: Duration,
}

/// The environment, for `getenv` in manifests.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
