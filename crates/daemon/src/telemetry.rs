//! Logs of a daemon.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// Starts logging to stderr. Call once, first thing in `main`.
///
/// `RUST_LOG` chooses what (default `info`); `LOG_FORMAT=json` gives JSON, else lines are plain, coloured on a terminal.
#[expect(clippy::disallowed_methods, reason = "logging starts before any configuration is parsed")]
pub fn init(name: &'static str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let json = std::env::var("LOG_FORMAT").is_ok_and(|format| format == "json");
    let lines =
        fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        registry.with(lines.json()).try_init()
    } else {
        registry.with(lines.compact().with_target(false)).try_init()
    };
    if started.is_ok() {
        std::panic::set_hook(Box::new(move |panic| {
            tracing::error!(daemon = name, "a task of {name} panicked: {panic}");
        }));
    }
}
