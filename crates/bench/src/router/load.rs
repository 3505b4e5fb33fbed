//! The load, by programs that others made for it.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail, ensure};
use tokio::{process::Command, time::timeout};

use super::world::{APP, Proxy};
use crate::figure::quantile;

/// A measurement that takes longer than it was told by this much has hung.
const GRACE: Duration = Duration::from_secs(30);

/// What was asked and how it was answered.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) requests: f64,
    /// Answers a second.
    pub(super) rate: f64,
    /// Milliseconds within which half, 99 and 99.9 of 100 answers came.
    pub(super) quantiles: [f64; 3],
    pub(super) failed: u64,
}

/// Which load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) connections: usize,
    pub(super) scheme: &'static str,
    pub(super) path: &'static str,
    pub(super) closes: bool,
}

async fn output(command: &mut Command, time: Duration) -> anyhow::Result<String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output =
        timeout(time + GRACE, command.output()).await.context("the load did not end")??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// HTTP/1 by wrk.
pub(super) async fn wrk(
    proxy: &Proxy,
    kind: Kind,
    folder: &Path,
    time: Duration,
) -> anyhow::Result<Load> {
    let mut command = Command::new("wrk");
    command.args(["-t", "2", "-c", &kind.connections.to_string()]);
    command.args(["-d", &format!("{}s", time.as_secs()), "--timeout", "10s"]);
    command.args(["-H", &format!("Host: {APP}")]).arg("-s").arg(folder.join("report.lua"));
    if kind.closes {
        command.args(["-H", "Connection: close"]);
    }
    let text = output(command.arg(proxy.url(kind.scheme, kind.path)), time).await?;
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let line = line.with_context(|| format!("wrk says {text}"))?;
    let numbers: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [requests, micros, half, most, nearly_all, failed] = numbers[..] else {
        bail!("wrk says {line}")
    };
    let quantiles = [half, most, nearly_all].map(|micros| micros / 1e3);
    Ok(Load { requests, rate: requests / micros * 1e6, quantiles, failed: failed as u64 })
}

/// HTTP/2 by h2load, with 16 concurrent requests on each connection.
pub(super) async fn h2load(
    proxy: &Proxy,
    connections: usize,
    folder: &Path,
    time: Duration,
) -> anyhow::Result<Load> {
    let log = folder.join("h2load.log");
    let _ = std::fs::remove_file(&log);
    let mut command = Command::new("h2load");
    command.args(["-t", "2", "-m", "16", "-c", &connections.to_string()]);
    command.args(["-D", &time.as_secs().to_string(), "-H", &format!(":authority: {APP}")]);
    command.arg("--log-file").arg(&log).arg(proxy.url("https", "/"));
    let said = output(&mut command, time).await?;
    let text = std::fs::read_to_string(&log).with_context(|| format!("h2load says {said}"))?;
    let (mut times, mut failed) = (Vec::new(), 0);
    for line in text.lines() {
        let mut words = line.split('\t').skip(1);
        match (words.next(), words.next().map(str::parse::<f64>)) {
            (Some("200"), Some(Ok(micros))) => times.push(micros / 1e3),
            _ => failed += 1,
        }
    }
    ensure!(!times.is_empty(), "h2load got no answer: {said}");
    let requests = times.len() as f64;
    let quantiles = [0.5, 0.99, 0.999].map(|share| quantile(&mut times, share));
    Ok(Load { requests, rate: requests / time.as_secs_f64(), quantiles, failed })
}
