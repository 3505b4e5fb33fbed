//! A job's life, from the order to its end: one task a job.
//!
//! Everything here may be cut off at any moment, because the daemon stops or dies; `jobs::restore` goes on from what
//! the engine and the journal say.

use std::{error::Error, sync::Arc, time::Duration};

use api::{
    host::{ActiveJob, EndReason, Status},
    id::JobId,
};
use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    container::{self, StartError},
    deaths::Death,
    health::{Health, Verdict},
    limits::{Breach, Limited},
    pump::Pump,
    registry::{Order, own_address},
    replace,
    stop::{CONDEMNED, KILLED_STATUS, end, stop},
};
use crate::{
    backend::{engine::Container, raw::Attached},
    domain::{
        addresses::kind,
        job::{Cause, Observed, STEADY, pause_before_restart},
        limits,
    },
    host::Host,
};

/// The engine may tell of what the kernel killed so long after it told of the end.
const LATE_NEWS: Duration = Duration::from_millis(500);
/// An end is reported even if the last output has not come by then.
const LAST_OUTPUT: Duration = Duration::from_millis(300);
/// The log is complete, or is given up, after this.
const WHOLE_OUTPUT: Duration = Duration::from_secs(10);
/// An ended job's container is removed after this: the engine would be busy with it while what takes its place starts.
const SUCCESSOR_FIRST: Duration = Duration::from_secs(2);

/// How a life begins.
#[derive(Debug)]
pub(crate) enum Origin {
    /// With an order, or once more.
    New,
    /// In a container that was there before this daemon.
    Adopted(Container),
}

/// Lets a job live until it ends or the daemon stops.
pub(crate) fn spawn(host: &Arc<Host>, id: JobId, origin: Origin) {
    let host = host.clone();
    host.lifetime.clone().spawn("job", move |stop| async move {
        let life = Life { host: host.clone(), id };
        tokio::select! {
            () = stop.cancelled() => {}
            ((), ()) = async { tokio::join!(life.live(origin), replace::decide(&host, id)) } => {}
        }
    });
}

struct Life {
    host: Arc<Host>,
    id: JobId,
}

/// A process that was started.
pub(super) struct Process {
    pub(super) container: String,
    pub(super) pid: i64,
    pub(super) death: Death,
    pumped: Option<oneshot::Receiver<()>>,
    /// How long it ran already when this daemon came to know it.
    pub(super) ran: Duration,
    /// It had ended for want of memory when this daemon came to know it.
    out_of_memory: bool,
    /// The job it was ended for.
    made_way_for: Option<JobId>,
    /// Its log says that something was killed for memory.
    memory_said: bool,
}

impl Life {
    async fn live(&self, origin: Origin) {
        let mut adopted = match origin {
            Origin::New => None,
            Origin::Adopted(container) => Some(container),
        };
        let mut crashes = 0;
        loop {
            if adopted.is_none() {
                replace::rest(&self.host, self.id).await;
            }
            let begun = Instant::now();
            let (observed, process) = self.one_process(adopted.take()).await;
            let withdrawn = match self.host.registry.job(self.id) {
                Some(active) => self.host.announcer.withdraw(&active).await,
                None => return,
            };
            let exit = match &observed {
                Observed::Ended { status, .. } => *status,
                _ => -1,
            };
            let killed =
                matches!(&observed, Observed::Ended { status: KILLED_STATUS, because: None });
            let after = self.host.registry.observe(self.id, observed);
            let over = after.as_ref().is_some_and(|after| after.status == Status::Crashed);
            if let Some(process) = process.as_ref().filter(|_| killed && over) {
                self.explain(process.death.clone()).await;
            }
            let container = match process {
                Some(process) => {
                    let is_over = after.as_ref().is_none_or(|after| !after.status.is_active());
                    Some(self.last_output(process, is_over).await)
                }
                None => None,
            };
            let Some(active) = after.filter(|active| active.status.is_active()) else {
                let removal = async {
                    if let Some(container) = container {
                        sleep(SUCCESSOR_FIRST).await;
                        self.remove(&container).await;
                    }
                };
                tokio::join!(self.bury(exit, withdrawn), removal);
                return;
            };
            if let Some(container) = container {
                self.remove(&container).await;
            }
            crashes = if begun.elapsed() >= STEADY { 1 } else { crashes + 1 };
            debug!(job.id = %active.job.id, crashes, "starting it again");
            tokio::select! {
                () = sleep(pause_before_restart(crashes)) => {}
                () = self.told_to_stop() => {}
                () = self.host.registry.until_asked_to_make_way(self.id) => {}
            }
        }
    }

    /// Runs the job once. Its instances may still be registered when this returns.
    async fn one_process(&self, adopted: Option<Container>) -> (Observed, Option<Process>) {
        let started = match adopted {
            Some(container) => Ok(self.adopt(container).await),
            None => self.start().await,
        };
        let mut process = match started {
            Ok(process) => process,
            Err(err) => {
                if !matches!(err, StartError::Stopped) {
                    warn!(error = &err as &dyn Error, job.id = %self.id, "a job was not started");
                }
                return (Observed::NotStarted { because: err.to_string() }, None);
            }
        };
        let (status, because) = self.supervise(&mut process).await;
        if let Some(pumped) = &mut process.pumped
            && timeout(LAST_OUTPUT, pumped).await.is_ok()
        {
            process.pumped = None;
        }
        if let Some(by) = process.made_way_for {
            let because = replace::sentence(by);
            return (Observed::MadeWay { status, because }, Some(process));
        }
        let because = match because {
            None => self.died_of_memory(&process, status).await,
            told => told,
        };
        (Observed::Ended { status, because }, Some(process))
    }

    fn active(&self) -> Option<ActiveJob> {
        self.host.registry.job(self.id)
    }

    async fn told_to_stop(&self) {
        let Some(mut orders) = self.host.registry.orders(self.id) else { return };
        stop_ordered(&mut orders).await;
    }

    async fn start(&self) -> Result<Process, StartError> {
        let host = &self.host;
        let active = self.active().ok_or(StartError::Stopped)?;
        let image = tokio::select! {
            biased;
            () = self.told_to_stop() => return Err(StartError::Stopped),
            image = container::image(host, &active) => image?,
        };
        // What it replaces serves until all that can be done before is done.
        tokio::select! {
            biased;
            () = self.told_to_stop() => return Err(StartError::Stopped),
            () = replace::take_turn(host, self.id) => {}
        }
        let container = container::create(host, &active, &image).await?;
        match self.run(&container, &active).await {
            Ok(process) => Ok(process),
            Err(err) => {
                host.deaths.forget(&container);
                self.remove(&container).await;
                Err(err)
            }
        }
    }

    /// Attaches, so that nothing is lost, and starts.
    async fn run(&self, container: &str, active: &ActiveJob) -> Result<Process, StartError> {
        let engine = &self.host.engine;
        let death = self.host.deaths.of(container);
        let attached = engine.attach(container, active.job.config.stdin).await?;
        engine.start(container).await?;
        let pid = engine.container(container).await?.map_or(0, |container| container.pid);
        if container::is_above_itself(&active.job, pid) {
            return Err(StartError::Root);
        }
        let pumped = self.pump(container, active, &death, Some(attached));
        let started = Observed::Started { container: container.into(), at: None };
        self.host.registry.observe(self.id, started);
        Ok(Process {
            container: container.into(),
            pid,
            death,
            pumped,
            ran: Duration::ZERO,
            out_of_memory: false,
            made_way_for: None,
            memory_said: false,
        })
    }

    fn pump(
        &self,
        container: &str,
        active: &ActiveJob,
        death: &Death,
        attached: Option<Attached>,
    ) -> Option<oneshot::Receiver<()>> {
        let output = self.host.registry.output(self.id)?;
        let stdin = attached.as_ref().and_then(|_| output.stdin_of_container());
        let pump = Pump {
            engine: self.host.engine.clone(),
            output,
            container: container.into(),
            tty: active.job.config.tty,
            death: death.clone(),
        };
        let (done, pumped) = oneshot::channel();
        self.host.lifetime.spawn_request(async move {
            pump.run(attached, stdin).await;
            let _ = done.send(());
        });
        Some(pumped)
    }

    /// Takes over a container that was started before this daemon was.
    async fn adopt(&self, container: Container) -> Process {
        let deaths = &self.host.deaths;
        let death = deaths.of(&container.id);
        let active = self.active();
        if !container.running {
            deaths.tell(&container.id, container.exit_status);
        }
        // A start that the daemon before this one did not live to see.
        if active.as_ref().is_some_and(|active| active.started_at.is_none()) {
            let (at, container) = (container.started_at, container.id.clone());
            self.host.registry.observe(self.id, Observed::Started { container, at });
        }
        let active = self.active();
        let pumped =
            active.as_ref().and_then(|active| self.pump(&container.id, active, &death, None));
        let since = active.and_then(|active| active.started_at).unwrap_or_else(Timestamp::now);
        let ran = Timestamp::now().duration_since(since);
        Process {
            pid: container.pid,
            death,
            pumped,
            ran: ran.try_into().unwrap_or_default(),
            out_of_memory: !container.running && container.out_of_memory,
            made_way_for: None,
            memory_said: false,
            container: container.id,
        }
    }

    /// Watches a process until it has ended: its exit status, and why, if it was our doing.
    async fn supervise(&self, process: &mut Process) -> (i32, Option<Cause>) {
        let registry = &self.host.registry;
        let (Some(active), Some(mut orders)) = (self.active(), registry.orders(self.id)) else {
            return (process.death.wait().await, None);
        };
        let ip = active.internal_ip.unwrap_or(self.host.settings.gateway.into());
        let was_up = active.status == Status::Running;
        let settle = self.host.settings.settle;
        let mut health = Health::new(&active.job, ip, process.pid, process.ran, settle, was_up);
        let mut limited = Limited::new(&self.host, &active, process);
        loop {
            let verdict = tokio::select! {
                biased;
                status = process.death.wait() => return (status, None),
                () = stop_ordered(&mut orders) => return (stop(&self.host, process, &active).await, None),
                () = registry.until_asked_to_make_way(self.id) => {
                    process.made_way_for = replace::begin_to_rest(&self.host, self.id);
                    return (stop(&self.host, process, &active).await, None);
                }
                verdict = health.changed() => verdict,
                breach = limited.passed() => {
                    match self.passed(process, &active, breach).await {
                        Some(ended) => return ended,
                        None => continue,
                    }
                }
            };
            if let Some(ended) = self.judged(process, &active, &mut orders, verdict).await {
                return ended;
            }
        }
    }

    /// Does what the checks' verdict asks for: how the process ended, if it was ended for it.
    async fn judged(
        &self,
        process: &mut Process,
        active: &ActiveJob,
        orders: &mut watch::Receiver<Order>,
        verdict: Verdict,
    ) -> Option<(i32, Option<Cause>)> {
        let registry = &self.host.registry;
        let because = match verdict {
            Verdict::Up => {
                let mut death = process.death.clone();
                let fails = |because| {
                    registry.observe(self.id, Observed::NotAnnounced { because });
                };
                tokio::select! {
                    biased;
                    _ = death.wait() => {}
                    () = stop_ordered(orders) => {}
                    () = self.host.announcer.register(active, fails) => {
                        registry.observe(self.id, Observed::Up);
                    }
                }
                return None;
            }
            Verdict::Down { seen, kill } => {
                warn!(job.id = %self.id, "job {} fails its check: {seen}", self.id);
                let because = format!("it fails its check: {seen}");
                registry.observe(self.id, Observed::Failing { because });
                self.host.announcer.withdraw(active).await;
                if !kill {
                    return None;
                }
                let said = format!("it failed its check and was killed: {seen}");
                Cause { reason: EndReason::CheckFailed, said }
            }
            Verdict::TooLate { reason, said } => Cause { reason, said },
        };
        Some((end(&self.host, self.id, process, CONDEMNED).await, Some(because)))
    }

    /// Says that a limit was passed, and ends the process where only that helps.
    async fn passed(
        &self,
        process: &mut Process,
        active: &ActiveJob,
        breach: Breach,
    ) -> Option<(i32, Option<Cause>)> {
        match breach {
            Breach::Memory { said } => {
                process.memory_said = true;
                self.say(&said);
                None
            }
            Breach::Processes { said } => {
                self.say(&said);
                None
            }
            Breach::Disk { said } | Breach::Time { said } => {
                self.say(&said);
                self.host.announcer.withdraw(active).await;
                let because = Cause { reason: EndReason::LimitExceeded, said };
                Some((end(&self.host, self.id, process, CONDEMNED).await, Some(because)))
            }
        }
    }

    /// Why a process died, if it was for want of memory; said in its log, too.
    async fn died_of_memory(&self, process: &Process, status: i32) -> Option<Cause> {
        if status == 0 || self.told_to_stop().now_or_never().is_some() {
            return None;
        }
        // The engine mostly tells of what the kernel kills before it tells of the end. It is not asked: while it cleans up
        // it would not answer, and a replacement waits for this.
        let limit = self.active()?.job.limits.memory;
        let so =
            limits::died_of_memory(status, process.out_of_memory, process.death.since_killed());
        if so && !process.memory_said {
            self.say(&limits::killed_sentence(limit));
        }
        so.then(|| out_of_memory(limit))
    }

    /// The engine may tell of what the kernel killed after it told of the end, which nobody was to wait for.
    async fn explain(&self, mut death: Death) {
        let Some(active) = self.active() else { return };
        if timeout(LATE_NEWS, death.of_memory(KILLED_STATUS)).await.is_ok() {
            let limit = active.job.limits.memory;
            self.say(&limits::killed_sentence(limit));
            let because = out_of_memory(limit);
            self.host.registry.observe(self.id, Observed::Explained { because });
        }
    }

    /// Says something to the job's owner, in its log.
    fn say(&self, text: &str) {
        warn!(job.id = %self.id, "job {}: {text}", self.id);
        if let Some(output) = self.host.registry.output(self.id)
            && let Err(err) = output.say(text)
        {
            warn!(error = %err, job.id = %self.id, "a job's log could not be written");
        }
    }

    /// Waits for the rest of the output, of a job that is over also for the reader that takes it slowly; the container that
    /// is left.
    async fn last_output(&self, process: Process, is_over: bool) -> String {
        if let Some(mut pumped) = process.pumped {
            let output = self.host.registry.output(self.id);
            let awaited_reader =
                || output.as_ref().is_some_and(|output| output.awaited_reader_within(WHOLE_OUTPUT));
            while timeout(WHOLE_OUTPUT, &mut pumped).await.is_err() {
                if !is_over || !awaited_reader() {
                    warn!(job.id = %self.id, "the end of a job's output did not come");
                    break;
                }
            }
        }
        self.host.deaths.forget(&process.container);
        process.container
    }

    async fn remove(&self, container: &str) {
        if let Err(err) = self.host.engine.remove(container).await {
            warn!(error = &err as &dyn Error, "a container stays behind");
        } else if let Err(err) = container::remove_scratch(&self.host, self.id).await {
            warn!(error = %err, "folders of an ended job stay behind");
        }
    }

    /// Gives back what the job had.
    async fn bury(&self, exit: i32, withdrawn: Option<u64>) {
        let host = &self.host;
        let Some(active) = self.active() else { return };
        if let Some(output) = host.registry.output(self.id) {
            output.end(active.exit_status.unwrap_or(exit));
        }
        host.registry.prune(host.settings.ended_jobs);
        let Some(address) = own_address(&active) else {
            host.announcer.forget(self.id);
            return;
        };
        let unknown = host.announcer.instances_of(&active).is_empty() || withdrawn == Some(0);
        host.addresses.free(address, kind(&active.job), unknown);
        if !unknown {
            host.announcer.until_acknowledged(&active, withdrawn).await;
            host.addresses.acknowledge(address);
        }
    }
}

fn out_of_memory(limit: u64) -> Cause {
    Cause { reason: EndReason::LimitExceeded, said: limits::memory_sentence(limit) }
}

async fn stop_ordered(orders: &mut watch::Receiver<Order>) {
    if orders.wait_for(|order| *order == Order::Stop).await.is_err() {
        // The job was forgotten; there is nobody left who could order anything.
        std::future::pending::<()>().await;
    }
}
