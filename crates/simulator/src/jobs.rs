//! What processes do, and what their host tells of them.

use api::{
    host::{ActiveJob, Event, EventKind, Status},
    id::JobId,
};

use crate::{
    host::Leading,
    message::{Happening, Step},
    world::{TROUBLE, World},
};

/// A stream that fell silent is noticed after so long, in ms.
const SILENCE: u64 = 16_000;

impl World {
    /// A job's process goes on.
    pub(crate) fn step(&mut self, host: usize, boot: u32, job: JobId, step: Step) {
        if self.hosts[host].boot != boot || !self.hosts[host].powered {
            return;
        }
        let (now, up) = (self.timestamp(), self.hosts[host].up);
        let Some(active) = self.hosts[host].jobs.get_mut(&job) else { return };
        let kind = match (active.status, step) {
            (Status::Starting | Status::Stopping, Step::Started) => {
                active.started_at = Some(now);
                EventKind::Start
            }
            // A daemon that is away checks no health; the one that comes starts over.
            (Status::Starting, Step::Up) if up => {
                active.status = Status::Running;
                EventKind::Up
            }
            (Status::Starting | Status::Running, Step::Crashed) => {
                (active.status, active.ended_at) = (Status::Crashed, Some(now));
                active.exit_status = Some(1);
                EventKind::Stop
            }
            (Status::Stopping, Step::Stopped | Step::Crashed) => {
                (active.status, active.ended_at) = (Status::Done, Some(now));
                EventKind::Stop
            }
            _ => return,
        };
        self.tell_of(host, kind, job);
    }

    /// Starts a job's process.
    pub(crate) fn run_process(&mut self, host: usize, job: JobId) {
        let boot = self.hosts[host].boot;
        let started = self.between(20, 400);
        let up = started + self.between(20, 800);
        self.after(started, Happening::Step { host, boot, job, step: Step::Started });
        self.after(up, Happening::Step { host, boot, job, step: Step::Up });
        if self.now < TROUBLE && self.chance(8) {
            let crash = self.between(100, 40_000);
            self.after(crash, Happening::Step { host, boot, job, step: Step::Crashed });
        }
    }

    /// Tells a job to stop.
    pub(crate) fn stop_process(&mut self, host: usize, job: JobId) {
        let Some(active) = self.hosts[host].jobs.get_mut(&job) else { return };
        if !matches!(active.status, Status::Starting | Status::Running) {
            return;
        }
        active.status = Status::Stopping;
        self.tell_of(host, EventKind::Stopping, job);
        let (boot, delay) = (self.hosts[host].boot, self.between(20, 2500));
        self.after(delay, Happening::Step { host, boot, job, step: Step::Stopped });
    }

    /// Tells the schedulers that listen, and sampi if this host leads.
    pub(crate) fn tell_of(&mut self, host: usize, kind: EventKind, job: JobId) {
        if !self.hosts[host].up {
            return;
        }
        let active = self.hosts[host].jobs[&job].clone();
        if !active.status.is_active()
            && let Leading::Yes(cluster) = &mut self.hosts[host].leading
        {
            cluster.job_ended(&format!("host{host}"), job);
        }
        let open: Vec<u64> =
            self.streams.iter().filter(|(_, open)| open.1 == host).map(|(id, _)| *id).collect();
        for stream in open {
            self.tell(stream, Event { event: kind, job: Some(active.clone()) });
        }
    }

    /// Puts an event on a stream, behind what is on it.
    pub(crate) fn tell(&mut self, stream: u64, event: Event) {
        let delay = if self.storm { self.between(1, 2000) } else { self.between(1, 20) };
        let Some((scheduler, host, last)) = self.streams.get_mut(&stream) else { return };
        let at = (self.now + delay).max(*last);
        *last = at;
        let (scheduler, host, event) = (*scheduler, *host, Box::new(event));
        self.after(at - self.now, Happening::Tell { scheduler, host, stream, event });
    }

    /// Breaks the streams between schedulers and hosts for which it is so. A dead peer is noticed at once, silence late.
    pub(crate) fn break_streams(&mut self, silent: bool, broken: impl Fn(usize, usize) -> bool) {
        let dead: Vec<(u64, usize, usize)> = self
            .streams
            .iter()
            .filter(|(_, (scheduler, host, _))| broken(*scheduler, *host))
            .map(|(id, (scheduler, host, _))| (*id, *scheduler, *host))
            .collect();
        for (stream, scheduler, host) in dead {
            self.streams.remove(&stream);
            let delay = if silent { SILENCE } else { self.between(1, 50) };
            self.after(delay, Happening::Lost { scheduler, host, stream });
        }
    }

    /// What a host makes of its jobs when its daemon starts.
    pub(crate) fn restore(&mut self, host: usize, rebooted: bool) {
        let now = self.timestamp();
        let jobs: Vec<(JobId, Status)> =
            self.hosts[host].active().map(|active| (active.job.id, active.status)).collect();
        for (job, status) in jobs {
            match status {
                Status::Starting if !rebooted => self.run_process(host, job),
                Status::Running if !rebooted => {}
                Status::Stopping if !rebooted => {
                    let (boot, delay) = (self.hosts[host].boot, self.between(20, 2500));
                    self.after(delay, Happening::Step { host, boot, job, step: Step::Stopped });
                }
                _ => self.hosts[host].jobs.get_mut(&job).into_iter().for_each(|active| {
                    over(active, now);
                }),
            }
        }
    }
}

fn over(active: &mut ActiveJob, now: jiff::Timestamp) {
    let stopping = active.status == Status::Stopping;
    active.status = if stopping { Status::Done } else { Status::Crashed };
    active.error = (!stopping).then(|| "its host was restarted".into());
    active.ended_at = Some(now);
}
