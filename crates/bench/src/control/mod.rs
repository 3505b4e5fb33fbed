//! A controller as a process on a Postgres of its own, with many apps, while many follow its events.

mod followers;
mod load;
mod scheduler;
mod server;

use std::time::Duration;

use api::controller::{App, NewApp, NewFormation, NewRelease, ProcessType, Release};
use controller_client::Controller;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use self::{followers::Followers, load::Load, scheduler::Scheduler, server::Server};
use crate::figure::{Better, Figure, GOAL, median, quantile};

/// Answers a second to the common reads, on two cores that Postgres and those who ask share.
const READS_GOAL: f64 = 1_000.0;
/// The same of writes, each of which is a commit on disk.
const WRITES_GOAL: f64 = 100.0;
/// Milliseconds within which 99 of 100 answers come.
const ANSWER_GOAL: f64 = 100.0;
/// Milliseconds to list all apps.
const LIST_GOAL: f64 = 1_000.0;
/// Milliseconds until everybody who follows has been told.
const FOLLOW_GOAL: f64 = 100.0;
/// MiB of the controller afterwards, and of a scheduler that knows of all this.
const MEMORY_GOAL: f64 = 128.0;

/// How many ask at a time.
const ASKERS: usize = 16;

/// How much is measured.
struct Size {
    apps: usize,
    followers: usize,
    changes: usize,
    time: Duration,
}

/// What the controller knows when it is measured.
struct World {
    client: Controller,
    apps: Vec<(App, Release)>,
}

pub(crate) async fn run(small: bool) -> anyhow::Result<()> {
    let size = match small {
        false => {
            let time = Duration::from_secs(15);
            Size { apps: 10_000, followers: 100, changes: 100, time }
        }
        true => Size { apps: 100, followers: 10, changes: 10, time: Duration::from_secs(1) },
    };
    let server = Server::start().await?;
    let begin = Instant::now();
    let world = fill(server.client(), size.apps).await?;
    let rate = 3.0 * size.apps as f64 / begin.elapsed().as_secs_f64();
    print("control-fill", "/s", Better::Higher, rate, WRITES_GOAL);
    let mut followers = Followers::start(&world.client, size.followers).await?;
    list(&world, size.changes.min(20)).await?;
    let reads = load::reads(&world, &mut followers, size.time).await?;
    report("control-reads", reads, READS_GOAL);
    let writes = load::writes(&world, &mut followers, size.time).await?;
    report("control-writes", writes, WRITES_GOAL);
    let mut delays = followers.delays(&world, size.changes).await?;
    print("control-follow-p99", "ms", Better::Lower, quantile(&mut delays, 0.99), FOLLOW_GOAL);
    memory("control-memory", server.memory()?);
    let scheduler = Scheduler::start(server.port()).await?;
    memory("control-scheduler-memory", scheduler.memory()?);
    Ok(())
}

fn memory(name: &str, bytes: u64) {
    print(name, "MiB", Better::Lower, bytes as f64 / f64::from(1 << 20), MEMORY_GOAL);
}

fn report(name: &str, mut load: Load, goal: f64) {
    print(name, "/s", Better::Higher, load.rate, goal);
    let p99 = quantile(&mut load.milliseconds, 0.99);
    print(&format!("{name}-p99"), "ms", Better::Lower, p99, ANSWER_GOAL);
}

fn print(name: &str, unit: &str, better: Better, ours: f64, goal: f64) {
    Figure { name, unit, better, ours, rival: (GOAL, goal) }.print();
}

/// Makes apps, each with a release and a formation.
async fn fill(client: Controller, apps: usize) -> anyhow::Result<World> {
    let made = stream::iter(0..apps).map(|number| one(&client, number)).buffer_unordered(ASKERS);
    let apps = made.try_collect().await?;
    Ok(World { client, apps })
}

async fn one(client: &Controller, number: usize) -> anyhow::Result<(App, Release)> {
    let name = Some(format!("app-{number}"));
    let app = client.create_app(&NewApp { name, ..NewApp::default() }).await?;
    let env = (0..20).map(|number| (format!("VARIABLE_{number}"), "some value".to_owned()));
    let new = NewRelease {
        app_id: Some(app.id),
        env: env.collect(),
        processes: [("web".to_owned(), ProcessType::default())].into(),
        ..NewRelease::default()
    };
    let release = client.create_release(&new).await?;
    let formation = NewFormation { processes: [("web".to_owned(), 1)].into() };
    client.put_formation(&app.name, release.id, &formation).await?;
    Ok((app, release))
}

/// How long the list of all apps takes.
async fn list(world: &World, times: usize) -> anyhow::Result<()> {
    let mut milliseconds = Vec::with_capacity(times);
    for _ in 0..times {
        let begin = Instant::now();
        world.client.apps().await?;
        milliseconds.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    print("control-list", "ms", Better::Lower, median(&mut milliseconds), LIST_GOAL);
    Ok(())
}
