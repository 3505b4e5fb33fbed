//! What many registered instances cost while nothing happens.

use std::time::Duration;

use anyhow::ensure;
use api::discoverd::Instance;
use futures_util::{StreamExt, TryStreamExt, stream};
use testkit::Etcd;
use tokio::time::{Instant, sleep};

use super::{Size, server::Server};
use crate::figure::{Better, Figure, GOAL};

/// Instances of one service.
const SERVICE_SIZE: usize = 20;

/// Registrations under way at once.
const AT_ONCE: usize = 128;

/// Parts of a core.
const CPU_GOAL: f64 = 1.0;

/// etcd's writes a second: as good as none.
const WRITES_GOAL: f64 = 0.1;

/// Longest time for what registering caused to come to rest: leaders are recorded.
const REST_LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn run(etcd: &Etcd, server: &Server, size: &Size) -> anyhow::Result<()> {
    let client = server.client();
    stream::iter(0..size.instances)
        .map(|n| register(&client, n))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    let registered = client.all_instances().await?.values().map(Vec::len).sum::<usize>();
    ensure!(registered >= size.instances, "only {registered} instances are registered");
    let mut keys = etcd_client::Client::connect([etcd.url()], None).await?;
    at_rest(&mut keys).await?;

    let (began, cpu, revision) = (Instant::now(), server.cpu()?, revision(&mut keys).await?);
    sleep(Duration::from_secs(size.idle_seconds)).await;
    let seconds = began.elapsed().as_secs_f64();
    let share = (server.cpu()? - cpu).as_secs_f64() / seconds;
    // Fewer than one cannot be seen.
    let writes = (self::revision(&mut keys).await? - revision).max(1) as f64 / seconds;
    let figure = |name, unit, ours, goal| {
        Figure { name, unit, better: Better::Lower, ours, rival: (GOAL, goal) }.print();
    };
    figure("discoverd-idle-cpu", "core", share, CPU_GOAL);
    figure("discoverd-idle-etcd-writes-at-most", "/s", writes, WRITES_GOAL);
    Ok(())
}

async fn register(client: &discoverd_client::Discoverd, n: usize) -> anyhow::Result<()> {
    let addr = format!("10.{}.{}.{}:8080", n >> 16, (n >> 8) & 255, n & 255);
    let instance = Instance::new("http", &addr, Default::default());
    client.register_for_host(&format!("app-{}", n / SERVICE_SIZE), &instance).await?;
    Ok(())
}

/// Waits until nothing was written for a while.
async fn at_rest(keys: &mut etcd_client::Client) -> anyhow::Result<()> {
    let end = Instant::now() + REST_LIMIT;
    let mut last = None;
    loop {
        let now = Some(revision(keys).await?);
        if now == last {
            return Ok(());
        }
        ensure!(Instant::now() < end, "etcd is written to although nothing happens");
        last = now;
        sleep(Duration::from_secs(2)).await;
    }
}

/// etcd counts its writes.
async fn revision(keys: &mut etcd_client::Client) -> anyhow::Result<i64> {
    let answer = keys.get("any key", None).await?;
    Ok(answer.header().map_or(0, |header| header.revision()))
}
