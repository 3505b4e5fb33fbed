//! How long an app takes from no process to many that serve, and as many of the same containers by the engine alone.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use api::host::{ActiveJob, META_APP_NAME, META_TYPE};
use bollard::{
    Docker,
    models::ContainerCreateBody,
    query_parameters::{
        CreateContainerOptions, RemoveContainerOptionsBuilder, StartContainerOptions,
    },
};
use futures_util::future::{join_all, try_join_all};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{against_engine, jobs::Jobs, starts::twin_of};
use crate::discoverd::ours;

/// Processes it is scaled to.
const PROCESSES: u32 = 8;
/// Between two looks at whether a process answers.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Longest time for all to serve.
const LIMIT: Duration = Duration::from_secs(60);

/// Measures with the app that `script/up` deploys; afterwards it has one process again.
pub(super) async fn run(jobs: &Jobs, app: &str, rounds: usize) -> anyhow::Result<()> {
    let measured = measure(jobs, app, rounds).await;
    scale(app, 1).await?;
    let (ours, theirs) = measured?;
    against_engine("scale-to-8", ours, theirs);
    Ok(())
}

async fn measure(jobs: &Jobs, app: &str, rounds: usize) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        empty(jobs, app).await?;
        ours.push(scale(app, PROCESSES).await?);
        let twins = twins(jobs, app).await?;
        empty(jobs, app).await?;
        theirs.push(by_engine(&jobs.engine, &twins).await?);
    }
    Ok((ours, theirs))
}

/// Milliseconds that `flynn scale` takes: it ends when all serve.
async fn scale(app: &str, processes: u32) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut command = ours("flynn")?;
    command.args(["-a", app, "scale", &format!("web={processes}")]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().await.context("running flynn")?;
    ensure!(status.success(), "flynn scale web={processes} of {app} failed");
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

/// Scales it to nothing, and waits until its containers are gone.
async fn empty(jobs: &Jobs, app: &str) -> anyhow::Result<()> {
    let before = processes(jobs, app).await?;
    scale(app, 0).await?;
    let gone = async {
        for job in before {
            while jobs.has_container(&job.container_id).await {
                sleep(LOOK_INTERVAL).await;
            }
        }
    };
    timeout(LIMIT, gone).await.with_context(|| format!("processes of {app} stay"))
}

/// The jobs of its type `web` that have not ended.
async fn processes(jobs: &Jobs, app: &str) -> anyhow::Result<Vec<ActiveJob>> {
    let all = jobs.host.jobs().await.context("asking for jobs")?;
    let is = |job: &ActiveJob, key, value| job.job.metadata.get(key).is_some_and(|v| v == value);
    let ours = |job: &ActiveJob| {
        job.status.is_active() && is(job, META_APP_NAME, app) && is(job, META_TYPE, "web")
    };
    Ok(all.into_values().filter(ours).collect())
}

/// A container and the address at which it will answer.
struct Twin {
    container: ContainerCreateBody,
    addr: String,
}

/// The containers of the app's processes, to be made again once these are gone: their addresses are in quarantine then.
async fn twins(jobs: &Jobs, app: &str) -> anyhow::Result<Vec<Twin>> {
    let serving = processes(jobs, app).await?;
    let twins = serving.iter().map(async |job| {
        let port = job.job.config.ports.first().map(|port| port.port);
        let port = port.with_context(|| format!("{app} has no port"))?;
        let container = twin_of(&jobs.engine, &job.container_id).await?;
        let networks = container.networking_config.as_ref();
        let endpoints = networks.and_then(|config| config.endpoints_config.as_ref());
        let address = endpoints.and_then(|all| {
            all.values().find_map(|one| one.ipam_config.as_ref()?.ipv4_address.clone())
        });
        let address = address.with_context(|| format!("a process of {app} has no address"))?;
        anyhow::Ok(Twin { container, addr: format!("{address}:{port}") })
    });
    let twins = try_join_all(twins).await?;
    ensure!(twins.len() == PROCESSES as usize, "{} processes of {app} are here", twins.len());
    Ok(twins)
}

/// Milliseconds until all containers, started at once, answer.
async fn by_engine(engine: &Docker, twins: &[Twin]) -> anyhow::Result<f64> {
    let began = Instant::now();
    let made = join_all(twins.iter().map(async |twin| {
        let container = twin.container.clone();
        let made = engine.create_container(None::<CreateContainerOptions>, container).await?;
        let started = engine.start_container(&made.id, None::<StartContainerOptions>).await;
        let answered = timeout(LIMIT, answer(&twin.addr)).await;
        Ok::<_, bollard::errors::Error>((made.id, started, answered))
    }))
    .await;
    let took = began.elapsed();
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    for id in made.iter().flatten().map(|(id, ..)| id) {
        engine.remove_container(id, Some(options.clone())).await.context("removing a container")?;
    }
    for one in made {
        let (_, started, answered) = one.context("creating a container")?;
        started.context("starting a container")?;
        answered.context("a container did not answer")?;
    }
    Ok(took.as_secs_f64() * 1000.0)
}

/// Asks until there is an answer.
async fn answer(addr: &str) {
    while ask(addr).await.is_err() {
        sleep(LOOK_INTERVAL).await;
    }
}

async fn ask(addr: &str) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    ensure!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    Ok(())
}
