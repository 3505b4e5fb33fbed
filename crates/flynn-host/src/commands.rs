//! The commands that ask a host.

use std::io::{Write, stdout};

use anyhow::Context;
use api::{
    host::{ActiveJob, META_APP_NAME, META_TYPE, Status},
    id::{ClusterJobId, JobId},
    key,
};
use futures_util::{StreamExt, pin_mut};
use host_client::{Cluster, Host};

use crate::{
    config::{Client, Command},
    identity::{Folders, cluster_key},
};

fn key_of(client: &Client) -> anyhow::Result<String> {
    let cluster_key = cluster_key(&Folders::new(&client.dir.data_dir))?;
    Ok(key::derive(&cluster_key, "flynn-host", key::VERSION))
}

fn host(client: &Client) -> anyhow::Result<Host> {
    Ok(Host::new(client.host.as_str(), Some(key_of(client)?)))
}

/// A job's own id, or its name in the cluster.
fn job_id(text: &str) -> anyhow::Result<JobId> {
    let of_cluster = text.parse::<ClusterJobId>().map(|id| id.job);
    Ok(text.parse::<JobId>().or(of_cluster)?)
}

/// Runs a command that asks a host.
pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(client) => list(&client).await,
        Command::Ps { all, client } => ps(all, &client).await,
        Command::Inspect { job, client } => {
            let job = host(&client)?.job(job_id(&job)?).await?;
            print_json(&job)
        }
        Command::Log { job, follow, lines, client } => log(&job, follow, lines, &client).await,
        Command::Stop { jobs, client } => {
            let host = host(&client)?;
            for job in jobs {
                let stopped = host.stop_job(job_id(&job)?).await;
                stopped.with_context(|| format!("stopping {job}"))?;
            }
            Ok(())
        }
        Command::Status(client) => {
            let status = host(&client)?.status().await?;
            if client.json {
                return print_json(&status);
            }
            let mut out = stdout().lock();
            writeln!(out, "id       {}", status.id)?;
            writeln!(out, "version  {}", status.version)?;
            writeln!(out, "subnet   {}", status.subnet)?;
            writeln!(out, "jobs     {}", status.jobs)?;
            writeln!(out, "disk     {} MiB free", status.disk_free >> 20)?;
            Ok(writeln!(out, "leads    {}", if status.leader { "yes" } else { "no" })?)
        }
        Command::Init(_) | Command::Daemon(_) => Ok(()),
    }
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(writeln!(stdout().lock(), "{}", serde_json::to_string_pretty(value)?)?)
}

async fn list(client: &Client) -> anyhow::Result<()> {
    let state = Cluster::new(client.host.as_str(), Some(key_of(client)?)).state().await?;
    if client.json {
        return print_json(&state.hosts);
    }
    let mut out = stdout().lock();
    writeln!(out, "{:<20} {:<22} JOBS", "ID", "ADDR")?;
    for (id, host) in state.hosts {
        writeln!(out, "{id:<20} {:<22} {}", host.addr, host.jobs.len())?;
    }
    Ok(())
}

async fn ps(all: bool, client: &Client) -> anyhow::Result<()> {
    let mut jobs: Vec<ActiveJob> = host(client)?.jobs().await?.into_values().collect();
    jobs.retain(|job| all || job.status.is_active());
    jobs.sort_by_key(|job| job.created_at);
    if client.json {
        return print_json(&jobs);
    }
    let mut out = stdout().lock();
    writeln!(out, "{:<32} {:<9} {:<16} {:<24} SINCE", "ID", "STATE", "ADDR", "PROCESS")?;
    for job in jobs {
        let meta = |key| job.job.metadata.get(key).map(String::as_str);
        let app = meta(META_APP_NAME).unwrap_or(&job.job.image);
        let process = format!("{app}/{}", meta(META_TYPE).unwrap_or("-"));
        let ip = job.internal_ip.map(|ip| ip.to_string()).unwrap_or_default();
        let since = job.ended_at.or(job.started_at).unwrap_or(job.created_at);
        let (id, state) = (job.job.id, state(job.status));
        writeln!(out, "{id:<32} {state:<9} {ip:<16} {process:<24} {since:.0}")?;
    }
    Ok(())
}

fn state(status: Status) -> &'static str {
    match status {
        Status::Starting => "starting",
        Status::Running => "running",
        Status::Stopping => "stopping",
        Status::Done => "done",
        Status::Crashed => "crashed",
        Status::Failed => "failed",
    }
}

async fn log(job: &str, follow: bool, lines: Option<u32>, client: &Client) -> anyhow::Result<()> {
    let log = host(client)?.log(job_id(job)?, lines, follow).await?;
    pin_mut!(log);
    while let Some(line) = log.next().await {
        let line = line?;
        let mut out = stdout().lock();
        match client.json {
            true => writeln!(out, "{}", serde_json::to_string(&line)?)?,
            false => writeln!(out, "{:.3} {} {}", line.timestamp, line.stream, line.msg)?,
        }
    }
    Ok(())
}
