//! What the leading host does again and again, and the heartbeat of every host.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use api::{
    cluster::{Placed, TAG_FULL},
    discoverd::{Instance, Term},
    host::ActiveJob,
    id::JobId,
    tag,
};
use discoverd_client::ServiceWatch;
use futures_util::{StreamExt, stream};
use sampi::{HostInfo, LEADING_PATIENCE, Moments, Silence, TAKEOVER_PATIENCE, Takeover, placed};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{ANSWER, Hosts, Leadership, SERVICE};
use crate::jobs::orders;

/// Heartbeat, and how often every host is listed again.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3);
/// Hosts that are listed at once.
const LISTINGS: usize = 64;
/// What who leads remembers from round to round.
#[derive(Debug)]
pub(super) struct Watched {
    begun: Instant,
    silence: Silence,
    moments: Moments,
}

impl Default for Watched {
    fn default() -> Self {
        Self { begun: Instant::now(), silence: Silence::default(), moments: Moments::default() }
    }
}

impl Leadership {
    /// Keeps this host registered, and the state while it leads. Each in a loop of its own: a host that hangs is waited
    /// for by the sweep alone.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let events = self.host.registry.subscribe().events;
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep_registered() => {}
            () = self.keep_sweeping() => {}
            () = self.keep_noting(events) => {}
        }
    }

    async fn keep_registered(&self) {
        let mut tick = interval(SWEEP_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.nudged.notified() => {}
                _ = tick.tick() => {}
            }
            self.register().await;
            self.to_sweep.notify_one();
        }
    }

    async fn keep_sweeping(&self) {
        let mut watch = self.watch.clone();
        loop {
            tokio::select! {
                () = watch.changed() => {}
                () = self.to_sweep.notified() => {}
            }
            self.look_at_claims().await;
            self.sweep().await;
        }
    }

    /// Reads who has the data of each volume, if this host is to lead. While etcd is away its last word stands.
    async fn look_at_claims(&self) {
        let is_to_lead = {
            let known = self.watch.borrow();
            let leader =
                known.leader.as_ref().map(|leader| leader.instance.meta.get("id").cloned());
            leader.flatten().as_ref() == Some(&self.host.settings.id)
        };
        if !is_to_lead {
            return;
        }
        match tokio::time::timeout(ANSWER, self.host.volumes.claims()).await {
            Ok(Ok(claims)) => {
                *self.claims.lock().unwrap_or_else(PoisonError::into_inner) = claims;
            }
            Ok(Err(err)) => debug!(error = &err as &dyn Error, "who has which volume is not known"),
            Err(_) => debug!("who has which volume is not known: etcd does not answer"),
        }
    }

    async fn keep_noting(&self, mut events: Receiver<api::host::Event>) {
        loop {
            match events.recv().await {
                Ok(event) => self.note(event.job),
                Err(RecvError::Lagged(_)) => self.to_sweep.notify_one(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// A job of this host that ended holds no room any more.
    fn note(&self, job: Option<ActiveJob>) {
        if let (Some(job), Some(cluster)) = (job, self.lock().as_mut())
            && !job.status.is_active()
        {
            cluster.job_ended(&self.host.settings.id, job.job.id);
        }
    }

    async fn register(&self) {
        let settings = &self.host.settings;
        let mut tags = self.host.file.lock().unwrap_or_else(PoisonError::into_inner).tags.clone();
        // A version before kept any; one that discovery does not take must not cost it the host.
        tags.retain(|name, value| tag::is_valid(name) && tag::is_valid(value));
        tags.remove(TAG_FULL);
        if self.host.is_full() {
            tags.insert(TAG_FULL.into(), "yes".into());
        }
        let mut meta: BTreeMap<String, String> =
            tags.into_iter().map(|(name, value)| (format!("tag:{name}"), value)).collect();
        meta.insert("id".into(), settings.id.clone());
        meta.insert("BOOT_ID".into(), settings.boot_id.clone());
        let instance = Instance::new("http", &self.addr, meta);
        if let Err(err) = self.host.announcer.discoverd.register(SERVICE, &instance).await {
            warn!(error = &err as &dyn Error, "this host could not be registered; trying again");
        }
    }

    /// Makes the state be what the hosts say, if this host leads.
    async fn sweep(&self) {
        let known = self.watch.borrow();
        let own = &self.host.settings.id;
        let leader = known.leader.as_ref().filter(|l| l.instance.meta.get("id") == Some(own));
        let begun = self.watched().begun.elapsed();
        let Some(leader) = leader else {
            *self.watched() = Watched::default();
            // While discoverd is away its last word stands.
            if !known.stale && self.lock().take().is_some() {
                info!("this host leads no more");
            }
            return;
        };
        let term = leader.term;
        let named = known.instances.values();
        let hosts: Hosts = named
            .filter_map(|instance| Some((instance.meta.get("id")?.clone(), instance.clone())))
            .collect();
        let as_of = match self.lock().as_ref() {
            Some(cluster) if cluster.term() == term => Some(cluster.moment()),
            _ => None,
        };
        let listings: Vec<_> = hosts
            .iter()
            .map(|(id, instance)| async move {
                // One that died does not answer, and the others are not to wait for that.
                let listed = tokio::select! {
                    listed = self.listing(term, id, instance, as_of.unwrap_or(0)) => listed,
                    () = self.until_gone(id) => Err("it is gone".into()),
                };
                (id.as_str(), listed)
            })
            .collect();
        let listings: Vec<_> = stream::iter(listings).buffer_unordered(LISTINGS).collect().await;
        let mut heard = Vec::new();
        let mut answered = BTreeSet::new();
        for (id, listing) in listings {
            match listing {
                Ok(info) => {
                    answered.insert(id);
                    heard.push((id, info));
                }
                Err(reason) => warn!(host.id = %id, reason, "a host cannot be listed"),
            }
        }
        self.watched().silence.asked(begun, hosts.keys().map(String::as_str), &answered);
        match as_of {
            Some(_) => self.bring_up_to_date(&hosts, heard),
            None => self.take_over(term, &hosts, heard),
        }
    }

    /// Waits until discoverd names a host no more.
    async fn until_gone(&self, id: &str) {
        let mut watch = self.watch.clone();
        let is_there = |watch: &ServiceWatch| {
            let known = watch.borrow();
            known
                .instances
                .values()
                .any(|instance| instance.meta.get("id").is_some_and(|i| i == id))
        };
        while is_there(&watch) {
            watch.changed().await;
        }
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hosts that discoverd names and that have not answered for longer than that. Never this one.
    fn left_out(&self, patience: Duration) -> BTreeSet<String> {
        let watched = self.watched();
        let mut silent = watched.silence.left_out(watched.begun.elapsed(), patience);
        silent.remove(&self.host.settings.id);
        silent
    }

    /// Leads from now on, if every host was heard that answers anybody.
    fn take_over(&self, term: Term, hosts: &Hosts, heard: Vec<(&str, HostInfo)>) {
        let mut takeover = Takeover::new(term, u64::from(rand::random::<u32>()) << 20);
        for (id, info) in heard {
            doubled(&takeover.heard(id, info));
        }
        let silent = self.left_out(TAKEOVER_PATIENCE);
        let needed = || hosts.keys().filter(|id| !silent.contains(*id)).map(String::as_str);
        match takeover.finish(needed()) {
            Ok(cluster) => {
                self.watched().moments = Moments::default();
                *self.lock() = Some(cluster);
                info!("this host leads, with term {}", term.to_header());
                for id in silent {
                    warn!(
                        host.id = id,
                        "host {id} cannot be reached, and is left out until it can"
                    );
                }
            }
            Err(takeover) => {
                let missing = takeover.missing(needed()).join(", ");
                warn!("this host is to lead, and waits until {missing} answered or is gone");
            }
        }
    }

    fn bring_up_to_date(&self, hosts: &Hosts, heard: Vec<(&str, HostInfo)>) {
        let silent = self.left_out(LEADING_PATIENCE);
        let mut state = self.lock();
        let Some(cluster) = state.as_mut() else { return };
        {
            let mut watched = self.watched();
            let now = watched.begun.elapsed();
            if let Some(until) = watched.moments.note(now, cluster.moment()) {
                cluster.give_up_orders(until);
            }
        }
        for (id, info) in heard {
            doubled(&cluster.upsert_host(id, info));
        }
        let known = cluster.state().hosts.into_keys();
        for id in known.filter(|id| !hosts.contains_key(id) || silent.contains(id)) {
            if silent.contains(&id) {
                warn!(host.id = id, "host {id} cannot be reached; its jobs are started elsewhere");
            }
            cluster.remove_host(&id);
        }
    }

    async fn listing(
        &self,
        term: Term,
        id: &str,
        instance: &Instance,
        as_of: u64,
    ) -> Result<HostInfo, String> {
        let (capacity, jobs) = if id == self.host.settings.id {
            orders::promise(&self.host, term).await.map_err(|err| err.to_string())?;
            (self.host.capacity(), self.host.registry.active())
        } else {
            let other = self.at(&instance.addr).with_term(term);
            let asked = async { tokio::try_join!(other.status(), other.jobs()) };
            let answered = tokio::time::timeout(ANSWER, asked).await;
            let answered = answered.map_err(|_| format!("no answer within {ANSWER:?}"))?;
            let (status, jobs) = answered.map_err(|err| err.to_string())?;
            (status.capacity, jobs.into_values().collect::<Vec<_>>())
        };
        let active = jobs.into_iter().filter(|job| job.status.is_active());
        let jobs: BTreeMap<JobId, Placed> =
            active.map(|job| (job.job.id, placed(&job.job))).collect();
        let tags = instance.meta.iter().filter_map(|(name, value)| {
            Some((name.strip_prefix("tag:")?.to_owned(), value.clone()))
        });
        let (addr, tags) = (instance.addr.clone(), tags.collect());
        Ok(HostInfo { addr, tags, capacity, jobs, as_of })
    }
}

fn doubled(jobs: &[JobId]) {
    for job in jobs {
        warn!(job.id = %job, "a job runs on two hosts; both keep it until its scheduler decides");
    }
}
