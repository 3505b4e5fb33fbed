//! How long a change takes to reach everybody, and one who watches etcd itself.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, bail};
use api::discoverd::Instance;
use etcd_client::WatchStream;
use testkit::Etcd;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout},
    time::{sleep, timeout},
};

use super::{
    Size,
    server::{Server, cpu, ours},
    watchers::{READY, SENT, now, sent},
};
use crate::figure::{Better, Figure, GOAL, median};

/// To the last but one of a hundred watchers, in milliseconds.
const GOAL_MS: f64 = 100.0;

/// Longest wait for all watchers.
const LIMIT: Duration = Duration::from_secs(60);

/// Between two changes, so that each meets a discoverd at rest.
const PAUSE: Duration = Duration::from_millis(300);

const SERVICE: &str = "watched";

struct Crowd {
    process: Child,
    words: Lines<BufReader<ChildStdout>>,
}

impl Crowd {
    async fn start(server: &Server, size: &Size) -> anyhow::Result<Self> {
        let mut command = ours("bench")?;
        command.args(["watchers", "--service", SERVICE, "--addr", &server.addr()]);
        command.args(["--count", &size.watchers.to_string()]).stdout(Stdio::piped());
        let mut process = command.spawn().context("starting the watchers")?;
        let words = process.stdout.take().context("the watchers have no output")?;
        let mut crowd = Self { process, words: BufReader::new(words).lines() };
        let word = crowd.word().await?;
        if word != READY {
            bail!("the watchers say {word:?}");
        }
        Ok(crowd)
    }

    async fn word(&mut self) -> anyhow::Result<String> {
        let word =
            timeout(LIMIT, self.words.next_line()).await.context("not all watchers saw it")?;
        word?.context("the watchers have ended")
    }

    /// Milliseconds until half of them, and 99 of 100, had seen a change.
    async fn delays(&mut self) -> anyhow::Result<(f64, f64)> {
        let word = self.word().await?;
        let (half, most) =
            word.split_once(' ').with_context(|| format!("watchers say {word:?}"))?;
        Ok((half.parse()?, most.parse()?))
    }
}

pub(super) async fn run(etcd: &Etcd, server: &Server, size: &Size) -> anyhow::Result<()> {
    let client = server.client();
    let instance = |sent: u64| {
        Instance::new("http", "10.0.0.1:8080", [(SENT.to_owned(), sent.to_string())].into())
    };
    client.register_for_host(SERVICE, &instance(0)).await?;
    let mut crowd = Crowd::start(server, size).await?;
    let mut raw = raw_watch(etcd, &instance(0).id).await?;
    let (mut halves, mut mosts, mut raws) = (Vec::new(), Vec::new(), Vec::new());
    let before = (server.cpu()?, cpu(&crowd.process)?);
    for _ in 0..size.changes {
        sleep(PAUSE).await;
        let changed = instance(now());
        let (put, raw) = tokio::join!(client.register_for_host(SERVICE, &changed), seen(&mut raw));
        put?;
        raws.push(raw?);
        let (half, most) = crowd.delays().await?;
        halves.push(half);
        mosts.push(most);
    }
    let each = |after: Duration, before: Duration| {
        (after - before).as_secs_f64() * 1000.0 / size.changes as f64
    };
    let cpus = (each(server.cpu()?, before.0), each(cpu(&crowd.process)?, before.1));
    let raw = ("etcd-watch", median(&mut raws));
    let figure =
        |name, ours, rival| Figure { name, unit: "ms", better: Better::Lower, ours, rival };
    figure("discoverd-change-to-watchers-p50", median(&mut halves), raw).print();
    figure("discoverd-change-to-watchers-p99", median(&mut mosts), (GOAL, GOAL_MS)).print();
    let (ours, theirs) = cpus;
    note(&format!(
        "{} watchers: a change costs discoverd {ours:.0} ms of CPU, the process of the watchers {theirs:.0} ms",
        size.watchers
    ));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what is said beside the figures")]
fn note(text: &str) {
    println!("{text}");
}

/// One watch of the key, without us between.
async fn raw_watch(etcd: &Etcd, instance: &str) -> anyhow::Result<WatchStream> {
    let mut client = etcd_client::Client::connect([etcd.url()], None).await?;
    let key = format!("/discoverd/services/{SERVICE}/instances/{instance}");
    let stream = client.watch(key, None).await.context("watching etcd")?;
    Ok(stream)
}

/// Milliseconds from the next change to its arrival.
async fn seen(stream: &mut WatchStream) -> anyhow::Result<f64> {
    loop {
        let answer = timeout(LIMIT, stream.message()).await.context("etcd told of no change")??;
        let now = now();
        let answer = answer.context("etcd ended the watch")?;
        let changed = answer.events().iter().filter_map(|event| event.kv());
        let changed = changed.filter_map(|kv| sent(kv.value_str().ok()?)).next_back();
        if let Some(sent) = changed {
            return Ok(now.saturating_sub(sent) as f64 / 1e6);
        }
    }
}
