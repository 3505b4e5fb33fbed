//! Many watchers of one service in a process of their own.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinSet,
};

use crate::figure::quantile;

/// What a watcher says when it has been told everything there is.
pub(super) const READY: &str = "ready";

/// In the meta of an instance: when it was changed, in nanoseconds of the machine's clock.
pub(super) const SENT: &str = "SENT";

/// Watches a service many times. Says `ready`, and after each change that all have seen the milliseconds it took to
/// reach half of them and 99 of 100.
#[derive(Debug, Args)]
pub(crate) struct Watchers {
    /// Address of discoverd.
    #[arg(long)]
    addr: String,
    /// The service.
    #[arg(long)]
    service: String,
    /// How many.
    #[arg(long)]
    count: usize,
}

/// What a watcher has to say.
enum Seen {
    Current,
    Change { sent: u64, ms: f64 },
}

impl Watchers {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let (seen, all_seen) = channel(self.count);
        let mut watchers = JoinSet::new();
        for _ in 0..self.count {
            let mut stream = TcpStream::connect(&self.addr).await.context("connecting")?;
            let request =
                format!("GET /services/{} HTTP/1.1\r\nhost: discoverd\r\n\r\n", self.service);
            stream.write_all(request.as_bytes()).await.context("subscribing")?;
            watchers.spawn(watch(stream, seen.clone()));
        }
        tokio::select! {
            told = tell(all_seen, self.count) => told,
            Some(ended) = watchers.join_next() => ended?,
        }
    }
}

/// Reads events for ever.
async fn watch(mut stream: TcpStream, seen: Sender<Seen>) -> anyhow::Result<()> {
    let (mut bytes, mut read) = (Vec::new(), 0);
    loop {
        bytes.drain(..read);
        if stream.read_buf(&mut bytes).await.context("reading a stream")? == 0 {
            bail!("discoverd closed a stream: {}", String::from_utf8_lossy(&bytes));
        }
        let now = now();
        read = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        for line in bytes[..read].split(|&byte| byte == b'\n') {
            if let Some(event) = event(line, now) {
                seen.send(event).await.context("nobody listens")?;
            }
        }
    }
}

fn event(line: &[u8], now: u64) -> Option<Seen> {
    let event: &str = std::str::from_utf8(line.strip_prefix(b"data: ")?).ok()?;
    // Cheaper than reading all of it: on two cores the watchers' work is taken from discoverd's.
    if event.contains(r#""kind":"current""#) {
        return Some(Seen::Current);
    }
    if !event.contains(r#""kind":"update""#) {
        return None;
    }
    let sent = sent(event)?;
    Some(Seen::Change { sent, ms: now.saturating_sub(sent) as f64 / 1e6 })
}

/// When what a JSON text tells of was changed.
pub(super) fn sent(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once(&format!("\"{SENT}\":\""))?;
    rest.split('"').next()?.parse().ok()
}

/// The machine's clock, which all its processes share.
pub(super) fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or_default()
}

#[expect(clippy::print_stdout, reason = "how it tells the process that started it")]
async fn tell(mut seen: Receiver<Seen>, count: usize) -> anyhow::Result<()> {
    let mut current = 0;
    let mut changes: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    while let Some(one) = seen.recv().await {
        match one {
            Seen::Current => {
                current += 1;
                if current == count {
                    println!("{READY}");
                }
            }
            Seen::Change { sent, ms } => {
                let delays = changes.entry(sent).or_default();
                delays.push(ms);
                if delays.len() == count {
                    println!("{} {}", quantile(delays, 0.5), quantile(delays, 0.99));
                    changes.remove(&sent);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_known_from_what_was_there_before() {
        let line = |kind| {
            format!(r#"data: {{"kind":"{kind}","instance":{{"meta":{{"SENT":"5000000"}}}}}}"#)
        };
        let seen = |kind| event(line(kind).as_bytes(), 7_000_000);
        assert!(matches!(seen("update"), Some(Seen::Change { sent: 5_000_000, ms: 2.0 })));
        assert!(matches!(seen("current"), Some(Seen::Current)));
        assert!(seen("up").is_none());
        assert!(event(b":", 0).is_none());
    }
}
