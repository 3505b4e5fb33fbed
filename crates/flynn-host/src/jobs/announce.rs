//! What other services are told of a job: its instances in discoverd, and that the routers have taken note.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::{
    discoverd::{Instance, META_HOST, META_JOB},
    host::{ActiveJob, META_APP, META_APP_NAME, META_RELEASE, META_TYPE},
    id::JobId,
    route::{Drain, Sync},
};
use discoverd_client::Discoverd;
use strowger_client::Routers;
use tokio::{sync::OwnedMutexGuard, time::timeout};
use tracing::{debug, warn};

/// Longest time a withdrawal may hold up a stop; it is tried on afterwards.
const WITHDRAWAL: Duration = Duration::from_secs(3);
/// Pause before a withdrawal or its confirmation is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Pause before a registration that failed is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// An instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    service: String,
    instance: String,
}

/// What is wanted of an instance.
#[derive(Debug, Clone)]
struct Wanted {
    /// Whose it is; absent if it is of a time before this daemon.
    job: Option<JobId>,
    instance: Instance,
    registered: bool,
    /// Whose it was before, and is again when that job is withdrawn: of two routers on the host's network, one takes the
    /// sockets of the other over, which goes on if that fails.
    beneath: Option<(JobId, Instance)>,
    /// Its registration and its withdrawal must not overtake each other.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Wanted {
    fn new(job: Option<JobId>, instance: Instance, registered: bool) -> Self {
        Self { job, instance, registered, beneath: None, turn: Arc::default() }
    }

    /// The same instance as `job` is it from now on.
    fn taken_over(self, job: JobId, instance: Instance) -> Self {
        let beneath = match self.job {
            Some(before) if before == job => self.beneath,
            Some(before) if self.registered => Some((before, self.instance)),
            _ => None,
        };
        Self { job: Some(job), instance, registered: true, beneath, turn: self.turn }
    }

    /// What is wanted when the job is withdrawn whose it is: that of the job before, if that is still there.
    fn given_back(&self) -> Option<Self> {
        let (job, instance) = self.beneath.clone()?;
        let (job, registered, turn) = (Some(job), true, self.turn.clone());
        Some(Self { job, instance, registered, beneath: None, turn })
    }

    /// A job is to be withdrawn, be it now or later.
    fn leave(&mut self, job: JobId) {
        if self.job == Some(job) {
            self.registered = false;
        }
        if self.beneath.as_ref().is_some_and(|(before, _)| *before == job) {
            self.beneath = None;
        }
    }
}

/// Whose turn it is to tell discoverd of an instance.
type Turn = OwnedMutexGuard<()>;

/// Tells discoverd and the routers.
#[derive(Debug)]
pub(crate) struct Announcer {
    pub(crate) discoverd: Discoverd,
    routers: Routers,
    host_id: String,
    boot_id: String,
    instances: Mutex<BTreeMap<Key, Wanted>>,
    /// Revision of each job's last withdrawal, until the routers have acknowledged it.
    withdrawn: Mutex<BTreeMap<JobId, u64>>,
}

impl Announcer {
    pub(crate) fn new(
        discoverd: Discoverd,
        routers: Routers,
        host_id: &str,
        boot_id: &str,
    ) -> Self {
        let (host_id, boot_id) = (host_id.into(), boot_id.into());
        Self {
            discoverd,
            routers,
            host_id,
            boot_id,
            instances: Mutex::default(),
            withdrawn: Mutex::default(),
        }
    }

    /// The instances a job is when it works.
    pub(crate) fn instances_of(&self, active: &ActiveJob) -> Vec<(String, Instance)> {
        let Some(ip) = active.internal_ip else { return Vec::new() };
        let offered = active.job.config.ports.iter().filter_map(|port| {
            let service = port.service.as_ref()?;
            let addr = std::net::SocketAddr::new(ip, port.port).to_string();
            Some((service.name.clone(), Instance::new(&port.proto, &addr, self.meta(active))))
        });
        offered.collect()
    }

    fn meta(&self, active: &ActiveJob) -> BTreeMap<String, String> {
        let known = [
            ("FLYNN_APP_ID", META_APP),
            ("FLYNN_APP_NAME", META_APP_NAME),
            ("FLYNN_RELEASE_ID", META_RELEASE),
            ("FLYNN_PROCESS_TYPE", META_TYPE),
        ];
        let of_job = |key| active.job.metadata.get(key).cloned();
        let mut meta: BTreeMap<String, String> =
            known.into_iter().filter_map(|(name, key)| Some((name.into(), of_job(key)?))).collect();
        meta.insert(META_JOB.into(), active.job.id.to_string());
        meta.insert(META_HOST.into(), self.host_id.clone());
        meta.insert("BOOT_ID".into(), self.boot_id.clone());
        meta
    }

    fn instances(&self) -> MutexGuard<'_, BTreeMap<Key, Wanted>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn withdrawn(&self) -> MutexGuard<'_, BTreeMap<JobId, u64>> {
        self.withdrawn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn to tell discoverd of an instance, and answers what is wanted of it then: never of one that is
    /// withdrawn by now, for on the host's own network the next job has the same address.
    async fn turn(&self, key: &Key) -> Option<(Turn, Wanted)> {
        loop {
            let turn = self.instances().get(key)?.turn.clone();
            let held = turn.clone().lock_owned().await;
            let wanted = self.instances().get(key).cloned();
            if let Some(wanted) = wanted.filter(|wanted| Arc::ptr_eq(&wanted.turn, &turn)) {
                return Some((held, wanted));
            }
        }
    }

    /// Notes what the instances of a job taken up from the daemon before are to be, unless it is known:
    /// [`Announcer::reconcile`] sees to it.
    pub(crate) fn adopt(&self, active: &ActiveJob, registered: bool) {
        for (service, instance) in self.instances_of(active) {
            let key = Key { service, instance: instance.id.clone() };
            let (job, mut instances) = (active.job.id, self.instances());
            match instances.remove(&key) {
                // The daemon before ended while one took over from the other.
                Some(other) if registered => {
                    _ = instances.insert(key, other.taken_over(job, instance));
                }
                Some(other) => _ = instances.insert(key, other),
                None => _ = instances.insert(key, Wanted::new(Some(job), instance, registered)),
            }
        }
    }

    /// Registers a job, tried on until it succeeds, and waits until the routers know (10 s at most). `fails` is told why it
    /// does not succeed.
    pub(crate) async fn register(&self, active: &ActiveJob, fails: impl Fn(String)) {
        let mut revision = 0;
        for (service, instance) in self.instances_of(active) {
            let key = Key { service, instance: instance.id.clone() };
            let service = &key.service;
            let own = Wanted::new(Some(active.job.id), instance.clone(), true);
            loop {
                self.instances().entry(key.clone()).or_insert_with(|| own.clone());
                // What is known may be of the address's last owner, whose withdrawal was not done yet.
                let Some((turn, before)) = self.turn(&key).await else { continue };
                let wanted = before.taken_over(active.job.id, instance.clone());
                self.instances().insert(key.clone(), wanted);
                match self.discoverd.register_for_host(service, &instance).await {
                    Ok(registered) => {
                        revision = revision.max(registered.revision);
                        break;
                    }
                    Err(err) => {
                        debug!(error = &err as &dyn Error, "registering {service} is tried again");
                        fails(format!("it works, but service discovery cannot be told: {err}"));
                    }
                }
                drop(turn);
                tokio::time::sleep(PAUSE).await;
            }
        }
        if revision == 0 {
            return;
        }
        if let Err(err) = self.sync(revision).await {
            warn!(error = &err as &dyn Error, job.id = %active.job.id, "a router is behind");
        }
    }

    /// Waits until every router has seen a revision of the services.
    async fn sync(&self, services: u64) -> Result<(), strowger_client::Unanswered> {
        self.routers.sync(Sync { routes: 0, services, timeout_ms: 10_000 }).await
    }

    /// Withdraws a job. Answers the revision from which on nobody is sent there, if it is known by now; 0 if nobody ever
    /// was.
    pub(crate) async fn withdraw(&self, active: &ActiveJob) -> Option<u64> {
        let job = active.job.id;
        let keys = self.instances_of(active).into_iter();
        let keys = keys.map(|(service, instance)| Key { service, instance: instance.id });
        let mut all_withdrawn = true;
        for key in keys {
            if let Some(wanted) = self.instances().get_mut(&key) {
                // Before the wait: what is not withdrawn in time is not to be registered again.
                wanted.leave(job);
            }
            let withdrawn = timeout(WITHDRAWAL, self.withdraw_one(job, &key)).await;
            all_withdrawn &= withdrawn == Ok(true);
        }
        all_withdrawn.then(|| self.withdrawn().get(&job).copied().unwrap_or_default())
    }

    /// Withdraws a job, tried on until it succeeds; see [`Announcer::withdraw`].
    pub(crate) async fn until_withdrawn(&self, active: &ActiveJob) -> u64 {
        loop {
            if let Some(revision) = self.withdraw(active).await {
                return revision;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Answers whether the instance is not, or no more, of this job.
    async fn withdraw_one(&self, job: JobId, key: &Key) -> bool {
        match self.turn(key).await {
            Some((_turn, wanted)) if wanted.job == Some(job) => {
                self.withdraw_wanted(&wanted, key).await
            }
            _ => true,
        }
    }

    /// Call it in the instance's turn.
    async fn withdraw_wanted(&self, wanted: &Wanted, key: &Key) -> bool {
        let next = wanted.given_back();
        let told = match &next {
            Some(next) => self.discoverd.register_for_host(&key.service, &next.instance).await,
            None => self.discoverd.unregister(&key.service, &key.instance).await,
        };
        match told {
            Ok(told) => {
                if let Some(job) = wanted.job {
                    let mut all = self.withdrawn();
                    let last = all.entry(job).or_default();
                    *last = (*last).max(told.revision);
                }
                let mut instances = self.instances();
                match next {
                    Some(next) => _ = instances.insert(key.clone(), next),
                    None => _ = instances.remove(key),
                }
                true
            }
            Err(err) => {
                warn!(error = &err as &dyn Error, "withdrawing {} is tried again", key.service);
                false
            }
        }
    }

    /// Waits until no router has a request under way to a job, `limit` at most, and says how much is left open then.
    pub(crate) async fn drain(&self, active: &ActiveJob, services: u64, limit: Duration) -> u32 {
        self.ask_to_drain(active, services, limit, true).await
    }

    /// Has every router close what it has open to a job.
    pub(crate) async fn cut(&self, active: &ActiveJob, services: u64) {
        self.ask_to_drain(active, services, Duration::ZERO, false).await;
    }

    async fn ask_to_drain(
        &self,
        active: &ActiveJob,
        services: u64,
        limit: Duration,
        keep_open: bool,
    ) -> u32 {
        let mut open = 0;
        for (_, instance) in self.instances_of(active) {
            let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            let drain = Drain { addr: instance.addr, services, timeout_ms, keep_open };
            match self.routers.drain(drain).await {
                Ok(drained) => {
                    if drained.closed > 0 {
                        warn!(job.id = %active.job.id, "closed {} connections that did not end", drained.closed);
                    }
                    open += drained.open;
                }
                Err(err) => warn!(error = &err as &dyn Error, "a router was not drained"),
            }
        }
        open
    }

    /// Waits until every router knows that nobody is sent to a job any more, however long that takes.
    pub(crate) async fn until_acknowledged(&self, active: &ActiveJob, withdrawn: Option<u64>) {
        let mut withdrawn = withdrawn;
        loop {
            match withdrawn {
                Some(0) => break,
                Some(revision) if self.sync(revision).await.is_ok() => break,
                Some(_) => {}
                None => withdrawn = self.withdraw(active).await,
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.forget(active.job.id);
    }

    /// Nobody asks any more from when on nobody is sent to a job.
    pub(crate) fn forget(&self, job: JobId) {
        self.withdrawn().remove(&job);
    }

    /// Registers every job again that should be, for the lease may have been lost, and withdraws again what should not.
    pub(crate) async fn reconcile(&self) -> Result<(), discoverd_client::Error> {
        self.note_strays().await?;
        let keys: Vec<Key> = self.instances().keys().cloned().collect();
        let mut refused = None;
        for key in keys {
            let Some((_turn, wanted)) = self.turn(&key).await else { continue };
            if !wanted.registered {
                // One whose withdrawal failed: a sick job must not stay where routers find it.
                self.withdraw_wanted(&wanted, &key).await;
                continue;
            }
            match self.discoverd.register_for_host(&key.service, &wanted.instance).await {
                Err(err) if err.is_retryable() => return Err(err),
                Err(err) => refused = Some(err),
                Ok(_) => {}
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Instances of this host that no job is, of a time before this daemon, are to be withdrawn.
    async fn note_strays(&self) -> Result<(), discoverd_client::Error> {
        for (service, instance) in self.discoverd.instances_of_host(&self.host_id).await? {
            if !instance.meta.contains_key(META_JOB) {
                continue;
            }
            let key = Key { service, instance: instance.id.clone() };
            self.instances().entry(key).or_insert_with_key(|key| {
                warn!(service = key.service, addr = instance.addr, "withdrawing what no job is");
                Wanted::new(None, instance, false)
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(job: JobId) -> Wanted {
        Wanted::new(Some(job), instance(job), true)
    }

    fn instance(job: JobId) -> Instance {
        let meta = BTreeMap::from([(META_JOB.to_owned(), job.to_string())]);
        Instance::new("http", "127.0.0.1:5000", meta)
    }

    #[test]
    fn an_address_is_given_back_to_the_job_before_unless_that_has_left() {
        let [old, new] = [(); 2].map(|()| JobId::random());
        let taken = wanted(old).taken_over(new, instance(new));
        // Tried again.
        let mut taken = taken.taken_over(new, instance(new));
        assert_eq!((taken.job, taken.registered), (Some(new), true));
        taken.leave(new);
        assert!(!taken.registered);
        let back = taken.given_back().unwrap();
        assert_eq!((back.job, back.instance.clone()), (Some(old), instance(old)));
        assert!(back.registered && back.given_back().is_none());

        let mut taken = wanted(old).taken_over(new, instance(new));
        taken.leave(old);
        assert!(taken.registered && taken.given_back().is_none());
    }

    #[test]
    fn an_address_is_not_given_back_to_a_job_that_was_withdrawn_before() {
        let [old, new] = [(); 2].map(|()| JobId::random());
        let mut left = wanted(old);
        left.leave(old);
        assert!(left.taken_over(new, instance(new)).given_back().is_none());
    }
}
