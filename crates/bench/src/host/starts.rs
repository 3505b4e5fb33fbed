//! A job's start, and that of the same container by the engine alone.

use std::collections::HashMap;

use anyhow::Context;
use bollard::{
    Docker,
    models::{ContainerCreateBody, EndpointIpamConfig, EndpointSettings, NetworkingConfig},
    query_parameters::{
        CreateContainerOptions, InspectContainerOptions, RemoveContainerOptionsBuilder,
        StartContainerOptions,
    },
};
use tokio::time::Instant;

use super::{
    against_engine,
    jobs::{Jobs, sleeper, synced},
};

pub(super) async fn run(jobs: &Jobs, rounds: usize) -> anyhow::Result<()> {
    let twin = twin(jobs).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(by_host(jobs).await?);
        theirs.push(by_engine(&jobs.engine, &twin).await?);
    }
    against_engine("host-job-start", ours, theirs);
    Ok(())
}

/// Milliseconds from the order until the host tells that the job's process runs.
async fn by_host(jobs: &Jobs) -> anyhow::Result<f64> {
    let job = sleeper();
    let mut events = synced(&jobs.host).await?;
    let began = Instant::now();
    jobs.order(&job, &mut events).await?;
    let took = began.elapsed();
    jobs.end(job.id).await?;
    Ok(took.as_secs_f64() * 1000.0)
}

/// Milliseconds the engine takes to create and start a container.
async fn by_engine(engine: &Docker, container: &ContainerCreateBody) -> anyhow::Result<f64> {
    let began = Instant::now();
    let made = engine.create_container(None::<CreateContainerOptions>, container.clone()).await;
    let made = made.context("creating a container")?;
    let started = engine.start_container(&made.id, None::<StartContainerOptions>).await;
    let took = began.elapsed();
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    engine.remove_container(&made.id, Some(options)).await.context("removing a container")?;
    started.context("starting a container")?;
    Ok(took.as_secs_f64() * 1000.0)
}

/// The container of a job, to be made again without the host's knowledge. Its address is in quarantine, so the host
/// gives it to nobody meanwhile.
async fn twin(jobs: &Jobs) -> anyhow::Result<ContainerCreateBody> {
    let job = sleeper();
    jobs.start(&job).await?;
    let container = jobs.job(job.id).await?.container_id;
    let twin = twin_of(&jobs.engine, &container).await;
    jobs.end(job.id).await?;
    twin
}

/// A container like this one, at the same address.
pub(super) async fn twin_of(
    engine: &Docker,
    container: &str,
) -> anyhow::Result<ContainerCreateBody> {
    let seen = engine.inspect_container(container, None::<InspectContainerOptions>).await;
    let seen = seen.context("inspecting a job's container")?;
    let config = seen.config.context("a container without configuration")?;
    let networks = seen.network_settings.and_then(|settings| settings.networks);
    let endpoints = networks.unwrap_or_default().into_iter().map(|(name, endpoint)| {
        let ipam_config = endpoint.ip_address.map(|address| EndpointIpamConfig {
            ipv4_address: Some(address),
            ..EndpointIpamConfig::default()
        });
        (name, EndpointSettings { ipam_config, ..EndpointSettings::default() })
    });
    let endpoints: HashMap<_, _> = endpoints.collect();
    Ok(ContainerCreateBody {
        image: config.image,
        hostname: config.hostname,
        user: config.user,
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        env: config.env,
        attach_stdout: config.attach_stdout,
        attach_stderr: config.attach_stderr,
        host_config: seen.host_config,
        networking_config: Some(NetworkingConfig { endpoints_config: Some(endpoints) }),
        ..ContainerCreateBody::default()
    })
}
