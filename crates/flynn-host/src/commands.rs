//! The commands that ask a host.

mod drain;
mod tags;

use std::{
    io::{Write, stdout},
    time::{Duration, Instant},
};

use anyhow::Context;
use api::{
    error::ErrorCode,
    host::{ActiveJob, EtcdRole, META_APP_NAME, META_TYPE, Status},
    id::{ClusterJobId, JobId},
    key,
};
use futures_util::{StreamExt, pin_mut};
use host_client::Host;
use jiff::Timestamp;

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
            writeln!(out, "leads    {}", if status.leader { "yes" } else { "no" })?;
            drop(out);
            largest_volumes(&client).await
        }
        Command::Invite(client) => invite(&client).await,
        Command::Drain { id, deadline, undo, client } => {
            drain::drain(&id, deadline, undo, &client).await
        }
        Command::Tags { change, client } => tags::tags(change, &client).await,
        Command::Remove { id, force, client } => {
            host(&client)?.remove_host(&id, force).await?;
            said(&client, &format!("{id} is not of this cluster any more"))
        }
        Command::Recover { force: _, client } => recover(&client).await,
        Command::Init(_) | Command::Join(_) | Command::Daemon(_) => Ok(()),
    }
}

/// Volumes `status` shows.
const VOLUMES_SHOWN: usize = 10;

/// Who uses the disk.
async fn largest_volumes(client: &Client) -> anyhow::Result<()> {
    let mut volumes = host(client)?.volumes().await?;
    volumes.sort_by_key(|volume| std::cmp::Reverse(volume.size.bytes));
    let mut out = stdout().lock();
    for volume in volumes.iter().take(VOLUMES_SHOWN) {
        let more = if volume.size.at_least { "more than " } else { "" };
        let mebibytes = volume.size.bytes.div_ceil(1 << 20);
        writeln!(out, "volume   {} {more}{mebibytes} MiB", volume.name)?;
    }
    Ok(())
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(writeln!(stdout().lock(), "{}", serde_json::to_string_pretty(value)?)?)
}

/// How long a host that was alone may take to start anew.
const GROWTH: Duration = Duration::from_secs(60);

async fn invite(client: &Client) -> anyhow::Result<()> {
    let (host, end) = (host(client)?, Instant::now() + GROWTH);
    let mut starts_anew = false;
    let invitation = loop {
        match host.invite().await {
            Ok(made) => break made.invitation,
            Err(err) => {
                starts_anew |= err.code() == Some(ErrorCode::ServiceUnavailable);
                if !(starts_anew && err.is_retryable() && Instant::now() < end) {
                    return Err(err.into());
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    };
    if client.json {
        return print_json(&serde_json::json!({ "invitation": invitation }));
    }
    let mut out = stdout().lock();
    writeln!(out, "One machine can become a host of this cluster, within a day:")?;
    Ok(writeln!(out, "  flynn-host join {invitation}")?)
}

async fn recover(client: &Client) -> anyhow::Result<()> {
    let recovered = host(client)?.recover().await?;
    if client.json {
        return print_json(&recovered);
    }
    let mut out = stdout().lock();
    writeln!(
        out,
        "etcd serves again, with the member of this host alone; others are added as hosts come."
    )?;
    for id in recovered.untold {
        writeln!(
            out,
            "{id} did not answer: it must not come back with what its etcd knew. If it is lost: flynn-host remove {id}"
        )?;
    }
    Ok(())
}

async fn list(client: &Client) -> anyhow::Result<()> {
    let hosts = host(client)?.hosts().await?;
    if client.json {
        return print_json(&hosts);
    }
    let mut out = stdout().lock();
    writeln!(
        out,
        "{:<20} {:<16} {:<9} {:<8} {:>5} {:>15} {:>9} {:<18}",
        "ID", "ADDR", "STATE", "ETCD", "JOBS", "MEMORY", "AGE", "SUBNET"
    )?;
    for one in hosts {
        let addr = one.addr.map_or_else(|| "-".into(), |addr| addr.to_string());
        let state = match (one.up, one.draining, one.leader) {
            (false, ..) => "away",
            _ if one.unreachable => "unreached",
            (true, true, _) => "draining",
            (true, false, _) if one.full => "full",
            (true, false, true) => "leads",
            (true, false, false) => "up",
        };
        let etcd = match one.etcd {
            EtcdRole::None => "-",
            EtcdRole::Learner => "learner",
            EtcdRole::Voter => "voter",
        };
        let jobs = one.jobs.map_or_else(|| "-".into(), |jobs| jobs.to_string());
        let memory = match (one.memory_used, one.capacity) {
            (Some(used), Some(all)) => format!("{}/{} MiB", used >> 20, all.memory >> 20),
            _ => "-".into(),
        };
        let age = one.joined_at.map_or_else(|| "-".into(), age);
        let subnet = one.subnet.unwrap_or_default();
        writeln!(
            out,
            "{:<20} {addr:<16} {state:<9} {etcd:<8} {jobs:>5} {memory:>15} {age:>9} {subnet:<18}",
            one.id
        )?;
    }
    Ok(())
}

fn age(since: Timestamp) -> String {
    let seconds = Timestamp::now().duration_since(since).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

/// Says what was done, to a person.
fn said(client: &Client, text: &str) -> anyhow::Result<()> {
    if !client.json {
        writeln!(stdout().lock(), "{text}")?;
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
