//! What connections cost on which nothing happens, and whether it is given back.

use std::time::Duration;

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{net::TcpStream, time::sleep};

use super::{
    client::{ask, connect},
    report::print,
    world::{APP, Proxy, World},
};
use crate::figure::{Better, Figure};

/// Connections opened at once.
const AT_ONCE: usize = 64;
/// What a proxy does after its last answer is done by then.
const REST: Duration = Duration::from_millis(500);

/// Opens connections to each proxy in turn, closes them, and looks again after `pause`.
pub(super) async fn measure(world: &World, count: usize, pause: Duration) -> anyhow::Result<()> {
    let (mut each, mut before) = (Vec::new(), Vec::new());
    for proxy in &world.proxies {
        let idle = proxy.usage().memory()?;
        let streams = open(proxy, count).await.with_context(|| proxy.name)?;
        sleep(REST).await;
        let held = proxy.usage().memory()?.saturating_sub(idle);
        each.push((proxy.name, held as f64 / count as f64 / 1024.0));
        before.push(idle as f64);
        drop(streams);
    }
    print(&format!("router-memory-per-idle-connection-of-{count}"), "KiB", Better::Lower, &each);
    sleep(pause).await;
    for (proxy, before) in world.proxies.iter().zip(before) {
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let after = mib(proxy.usage().memory()? as f64);
        let name = format!("router-memory-of-{}-{}s-after", proxy.name, pause.as_secs());
        let rival = ("before", mib(before));
        Figure { name: &name, unit: "MiB", better: Better::Lower, ours: after, rival }.print();
    }
    Ok(())
}

/// Connections that have had an answer each.
async fn open(proxy: &Proxy, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let one = async |_| {
        let mut stream = connect(proxy.http).await?;
        ask(&mut stream, APP).await?;
        anyhow::Ok(stream)
    };
    stream::iter(0..count).map(one).buffer_unordered(AT_ONCE).try_collect().await
}
