//! strowger and other proxies before the same backends, in turn.

mod client;
mod echo;
mod idle;
mod load;
mod process;
mod report;
mod strowger;
mod world;

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use tokio::time::sleep;

use self::{
    load::{Kind, Load, h2load, wrk},
    report::{Measured, report},
    world::{Proxy, World},
};
use crate::figure::{Better, Figure, median};

/// Between two reloads of a proxy whose users change it so.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
/// Connections of HTTP/2.
const H2_CONNECTIONS: usize = 8;

/// How much is measured.
struct Size {
    rounds: usize,
    time: Duration,
    many: usize,
    routes: usize,
    idle: usize,
    pause: Duration,
    with_caddy: bool,
}

/// What clients do.
#[derive(Debug, Clone, Copy)]
enum Scenario {
    Http(Kind),
    Http2,
    Websockets(usize),
    /// The plainest, while routes and backends change.
    Changes(Kind),
}

pub(crate) async fn run(small: bool, rounds: usize) -> anyhow::Result<()> {
    let seconds = Duration::from_secs;
    let size = match small {
        false => Size {
            rounds,
            time: seconds(3),
            many: 1_000,
            routes: 10_000,
            idle: 10_000,
            pause: seconds(60),
            with_caddy: true,
        },
        true => Size {
            rounds: 1,
            time: seconds(1),
            many: 200,
            routes: 100,
            idle: 100,
            pause: seconds(1),
            with_caddy: false,
        },
    };
    let world = World::start(size.with_caddy).await?;
    for (name, scenario) in scenarios(small, size.many) {
        compare(&world, &size, name, scenario).await.with_context(|| name)?;
    }
    crowded(&world, &size).await?;
    idle::measure(&world, size.idle, size.pause).await
}

fn scenarios(small: bool, many: usize) -> Vec<(&'static str, Scenario)> {
    let plain = Kind { connections: 64, scheme: "http", path: "/", closes: false };
    let http = [
        ("small-64", plain),
        ("small-many", Kind { connections: many, ..plain }),
        ("100-kib", Kind { path: "/large", ..plain }),
        ("new-connection", Kind { closes: true, ..plain }),
        ("tls", Kind { scheme: "https", ..plain }),
    ];
    let rest = [
        ("h2", Scenario::Http2),
        ("websocket", Scenario::Websockets(plain.connections)),
        ("changes", Scenario::Changes(plain)),
    ];
    let all = http.map(|(name, kind)| (name, Scenario::Http(kind))).into_iter().chain(rest);
    // One of each kind shows whether it works.
    let kinds = ["h2", "websocket", "changes"];
    all.filter(|(name, _)| !small || kinds.contains(name)).collect()
}

/// Measures all proxies in turn, each round beginning with another one.
async fn compare(world: &World, size: &Size, name: &str, scenario: Scenario) -> anyhow::Result<()> {
    let proxies: Vec<&Proxy> = match scenario {
        // Its users reload it, which costs it all connections.
        Scenario::Changes(_) => world.proxies.iter().filter(|one| one.name != "caddy").collect(),
        _ => world.proxies.iter().collect(),
    };
    let mut all: Vec<_> = proxies.iter().map(|proxy| (proxy.name, Vec::new())).collect();
    for round in 0..size.rounds {
        for turn in 0..proxies.len() {
            let which = (round + turn) % proxies.len();
            let measured = measure(world, proxies[which], scenario, size.time).await;
            all[which].1.push(measured.with_context(|| proxies[which].name)?);
        }
    }
    report(name, &all);
    Ok(())
}

async fn measure(
    world: &World,
    proxy: &Proxy,
    scenario: Scenario,
    time: Duration,
) -> anyhow::Result<Measured> {
    let usage = proxy.usage();
    usage.forget_peak()?;
    let before = usage.cpu()?;
    let load = load(world, proxy, scenario, time).await?;
    Ok(Measured { load, cpu: usage.cpu()?.saturating_sub(before), peak: usage.peak()? })
}

async fn load(
    world: &World,
    proxy: &Proxy,
    scenario: Scenario,
    time: Duration,
) -> anyhow::Result<Load> {
    let folder = world.folder.path();
    match scenario {
        Scenario::Http(kind) => wrk(proxy, kind, folder, time).await,
        Scenario::Http2 => h2load(proxy, H2_CONNECTIONS, folder, time).await,
        Scenario::Websockets(connections) => echo::talk(proxy.http, connections, time).await,
        Scenario::Changes(kind) => tokio::select! {
            load = wrk(proxy, kind, folder, time) => load,
            failed = change(world, proxy) => Err(failed.err().context("changes ended")?),
        },
    }
}

/// Changes routes and backends as the users of a proxy do.
async fn change(world: &World, proxy: &Proxy) -> anyhow::Result<()> {
    if proxy.name == "strowger" {
        return world.strowger.change().await;
    }
    loop {
        sleep(RELOAD_INTERVAL).await;
        proxy.reload()?;
    }
}

/// What many routes cost: two routers in turn, of which the one has them.
async fn crowded(world: &World, size: &Size) -> anyhow::Result<()> {
    let (other, strowger) = &world.crowded;
    strowger.crowd(size.routes).await?;
    let kind = Kind { connections: 64, scheme: "http", path: "/", closes: false };
    let mut rates: BTreeMap<bool, Vec<f64>> = BTreeMap::new();
    for round in 0..size.rounds {
        for has_many in [round % 2 == 0, round % 2 == 1] {
            let proxy = if has_many { other } else { &world.proxies[0] };
            let load = wrk(proxy, kind, world.folder.path(), size.time).await?;
            rates.entry(has_many).or_default().push(load.rate);
        }
    }
    let mut middle = |has_many| median(rates.entry(has_many).or_default());
    let (name, better) = (format!("router-{}-routes-rate", size.routes), Better::Higher);
    let (ours, rival) = (middle(true), ("few-routes", middle(false)));
    Figure { name: &name, unit: "/s", better, ours, rival }.print();
    Ok(())
}
