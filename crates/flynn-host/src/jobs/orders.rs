//! What others may order: a job, its stop, a signal.

use std::{io, net::IpAddr, sync::Arc};

use api::{
    discoverd::Term,
    host::{ActiveJob, EventKind, Job, Status},
    id::JobId,
    validate::{Invalid, validate},
};
use daemon::WorkPanicked;
use jiff::Timestamp;

use super::{
    journal::Entry,
    life::{self, Origin},
    output::Output,
    registry::log_folder,
    replace,
};
use crate::{
    backend::engine::EngineError,
    domain::{
        addresses::{NoRoom, kind},
        job::Observed,
    },
    host::Host,
    terms::TermError,
    volumes::{VolumeError, VolumeInUse, check_writers},
};

/// An order is not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    /// Its leader leads no more.
    #[error(transparent)]
    Term(#[from] TermError),
    /// It cannot be run.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is another job of that id.
    #[error("another job has the id {0} on this host; give each job an id of its own")]
    Different(JobId),
    /// There is no such job.
    #[error("this host knows no job {0}")]
    Unknown(JobId),
    /// It does not run.
    #[error("job {0} has no process at the moment")]
    NotRunning(JobId),
    /// No address.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The disk is full.
    #[error(
        "this host has only {free} bytes of disk left, below its reserve of {reserve}; stop jobs or \
         free disk before starting more"
    )]
    NoDisk {
        /// What is left.
        free: u64,
        /// What stays free.
        reserve: u64,
    },
    /// Its data is elsewhere.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Its data is being written by another job.
    #[error(transparent)]
    VolumeInUse(#[from] VolumeInUse),
    /// Its limits do not fit beside those of the jobs that are there.
    #[error(
        "this host has no room for another job of {memory} MiB: stop jobs, lower their limits or add a host"
    )]
    Full {
        /// What was asked for.
        memory: u64,
    },
    /// The journal.
    #[error("the order could not be written down")]
    Journal(#[source] io::Error),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A bug of ours.
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
}

/// Promises a leader that no job is taken any more under an older term: what is listed from now on is all there is.
pub(crate) async fn promise(host: &Host, term: Term) -> Result<(), TermError> {
    // An order that was let in under an older term is carried out first.
    let _none_under_way = host.accepting.lock().await;
    host.terms.obey(term)
}

/// Takes a job: when this answers it is on disk and will be started, whatever happens to this daemon. Once begun it is
/// finished, also when whoever asked is gone.
pub(crate) async fn accept(
    host: &Arc<Host>,
    term: Option<Term>,
    job: Job,
) -> Result<(), OrderError> {
    validate(&job)?;
    let turn = loop {
        let seen = host.volumes.released();
        host.volumes.claim(&host.folders.volumes(), &job.config.volumes).await?;
        let turn = host.accepting.clone().lock_owned().await;
        // What was given up meanwhile may be what was just found to be this host's.
        if host.volumes.released() == seen {
            break turn;
        }
    };
    // From here on it is this daemon's: half an order would be started at the next start, unknown to everybody until then.
    let work = {
        let host = host.clone();
        async move {
            let _one_by_one = turn;
            take(&host, term, job).await
        }
    };
    host.lifetime.carry_out(work).await?
}

async fn take(host: &Arc<Host>, term: Option<Term>, job: Job) -> Result<(), OrderError> {
    term.map_or(Ok(()), |term| host.terms.obey(term))?;
    let id = job.id;
    if let Some(known) = host.registry.job(id) {
        return if known.job == job { Ok(()) } else { Err(OrderError::Different(id)) };
    }
    replace::check(&host.registry, &job)?;
    check_writers(&job, &host.registry.active())?;
    let (free, reserve) = (host.disk_free(), host.settings.disk_reserve);
    if free < reserve && !job.resurrect {
        return Err(OrderError::NoDisk { free, reserve });
    }
    if !job.resurrect {
        let active = host.registry.active();
        let present = active.iter().map(|active| &active.job.limits);
        if !sampi::has_room(&host.capacity(), present, &job.limits) {
            return Err(OrderError::Full { memory: job.limits.memory >> 20 });
        }
    }
    let internal_ip: IpAddr = match job.config.host_network {
        true => host.settings.gateway.into(),
        false => host.addresses.take(&job)?.into(),
    };
    let kind = kind(&job);
    let accepted = write_down(host, job, internal_ip).await;
    if accepted.is_err()
        && let IpAddr::V4(address) = internal_ip
    {
        host.addresses.free(address, kind, true);
    }
    accepted?;
    life::spawn(host, id, Origin::New);
    Ok(())
}

async fn write_down(host: &Arc<Host>, job: Job, ip: IpAddr) -> Result<(), OrderError> {
    let id = job.id;
    let active = ActiveJob {
        host_id: host.settings.id.clone(),
        container_id: String::new(),
        internal_ip: Some(ip),
        status: Status::Starting,
        created_at: Timestamp::now(),
        started_at: None,
        ended_at: None,
        exit_status: None,
        error: None,
        end_reason: None,
        host_restarts: 0,
        job,
    };
    let entry = Entry { job: active, boot_id: host.settings.boot_id.clone() };
    let writer = host.clone();
    let written = tokio::task::spawn_blocking(move || {
        writer.registry.accept(&entry)?;
        let folder = log_folder(&writer.folders.logs(), id);
        Ok((Output::open(&folder, entry.job.job.config.stdin)?, entry))
    });
    let written =
        written.await.map_err(io::Error::other).and_then(|written: io::Result<_>| written);
    let (output, entry) = written.map_err(OrderError::Journal)?;
    host.registry.insert(entry, Arc::new(output), Some(EventKind::Create));
    Ok(())
}

/// Tells a job to stop; that it has ended already is success.
pub(crate) fn stop(host: &Host, id: JobId) -> Result<(), OrderError> {
    host.registry.job(id).ok_or(OrderError::Unknown(id))?;
    host.registry.observe(id, Observed::Ordered);
    Ok(())
}

/// Sends a signal to a job's process.
pub(crate) async fn signal(host: &Host, id: JobId, signal: u32) -> Result<(), OrderError> {
    let active = host.registry.job(id).ok_or(OrderError::Unknown(id))?;
    if !active.status.is_active() || active.started_at.is_none() {
        return Err(OrderError::NotRunning(id));
    }
    if !(1..=64).contains(&signal) {
        let problem = "must be from 1 to 64".into();
        return Err(Invalid { field: "signal", problem }.into());
    }
    Ok(host.engine.kill(&active.container_id, signal).await?)
}
