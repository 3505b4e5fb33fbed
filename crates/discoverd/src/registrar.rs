//! Registering and withdrawing instances, and keeping etcd at what was registered.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::discoverd::{Event, EventKind, Instance};
use keyspace::LeaseId;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    domain::{
        directory::Hold,
        registration::{Key, Registrations, Step, same},
    },
    error::Failure,
    mirror::Mirror,
    store::Store,
};

/// How often registrations are compared with etcd, and heartbeats counted.
const SWEEP: Duration = Duration::from_secs(1);
/// Writes to one instance happen one after another; those to different ones rarely wait for each other.
const LOCKS: usize = 64;

/// Holds instances on behalf of this host. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Registrar {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    mirror: Mirror,
    registrations: Mutex<Registrations>,
    locks: [tokio::sync::Mutex<()>; LOCKS],
    lease: watch::Receiver<Option<LeaseId>>,
    nudge: Notify,
}

impl Registrar {
    pub(crate) fn new(
        store: Store,
        mirror: Mirror,
        lease: watch::Receiver<Option<LeaseId>>,
    ) -> Self {
        let locks = std::array::from_fn(|_| tokio::sync::Mutex::new(()));
        let (registrations, nudge) = (Mutex::default(), Notify::new());
        Self { inner: Arc::new(Inner { store, mirror, registrations, locks, lease, nudge }) }
    }

    fn registrations(&self) -> MutexGuard<'_, Registrations> {
        self.inner.registrations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_of(&self, key: &Key) -> &tokio::sync::Mutex<()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        &self.inner.locks[(hasher.finish() % LOCKS as u64) as usize]
    }

    fn lease(&self) -> Option<LeaseId> {
        *self.inner.lease.borrow()
    }

    /// Whether writes can succeed.
    pub(crate) fn check_etcd(&self) -> Result<(), Failure> {
        if self.inner.mirror.freshness().is_fresh() { Ok(()) } else { Err(Failure::EtcdAway) }
    }

    /// Registers an instance, or takes a heartbeat of it. Answers with the revision at which watchers know it.
    pub(crate) async fn register(
        &self,
        service: &str,
        instance: Instance,
        hold: Hold,
    ) -> Result<u64, Failure> {
        let key = (service.to_owned(), instance.id.clone());
        let _writing = self.lock_of(&key).lock().await;
        self.check_etcd()?;
        let lease = self.lease().ok_or(Failure::EtcdAway)?;
        let known = self.inner.mirror.read(|directory| {
            let held = directory.instance(service, &instance.id)?;
            let settled = held.lease == Some(lease) && held.hold == hold;
            (settled && same(&held.instance, &instance)).then_some(held.instance.revision)
        });
        let before = self.registrations().hold(key.clone(), instance.clone(), hold);
        if let Some(revision) = known {
            return Ok(revision);
        }
        match self.inner.store.put_instance(service, &instance, hold, lease).await {
            Ok(revision) => {
                self.inner.mirror.until(revision).await;
                Ok(revision)
            }
            Err(err) => {
                self.registrations().restore(key, before);
                Err(err.into())
            }
        }
    }

    /// Withdraws an instance; that there is none is no error. Answers with the revision at which watchers know it.
    pub(crate) async fn withdraw(&self, service: &str, id: &str) -> Result<u64, Failure> {
        let key = (service.to_owned(), id.to_owned());
        let _writing = self.lock_of(&key).lock().await;
        // Remembered also when etcd is away, so that it is not registered again when etcd returns.
        self.registrations().withdraw(key.clone());
        self.check_etcd()?;
        let withdrawn = self.inner.store.withdraw(service, id).await?;
        let mirror = &self.inner.mirror;
        match withdrawn {
            Some(revision) => mirror.until(revision).await,
            None if mirror.read(|directory| directory.instance(service, id).is_some()) => {
                // It vanished and our watch has not told us yet. Any later revision will do.
                mirror.until(mirror.read(|directory| directory.revision()) + 1).await;
            }
            None => {}
        }
        self.registrations().forget(&key);
        let last = || mirror.read(|directory| directory.service(service).map(|of| of.revision()));
        Ok(withdrawn.or_else(last).unwrap_or(0))
    }

    /// Removes a service with all its instances.
    pub(crate) async fn remove_service(&self, service: &str) -> Result<(), Failure> {
        self.check_etcd()?;
        self.registrations().forget_service(service);
        let revision = self.inner.store.delete_service(service).await?;
        self.inner.mirror.until(revision).await;
        Ok(())
    }

    /// A lease of ours ended.
    pub(crate) fn lease_ended(&self, lease: LeaseId) {
        self.registrations().lease_ended(lease);
    }

    /// What etcd told. Who was withdrawn, through whichever discoverd, is not registered again.
    pub(crate) fn learned(&self, events: &[Event]) {
        let withdrawn = events.iter().filter(|event| event.kind == EventKind::Down);
        for event in withdrawn {
            if let (false, Some(instance)) = (event.suspect, &event.instance) {
                let key = (event.service.clone(), instance.id.clone());
                // While a write of it is under way, that write knows better.
                if let Ok(_idle) = self.lock_of(&key).try_lock() {
                    self.registrations().forget(&key);
                }
            } else {
                self.inner.nudge.notify_one();
            }
        }
    }

    /// Compares what is registered with etcd and mends the difference.
    async fn reconcile(&self) {
        let Some(lease) = self.lease() else { return };
        let steps = self.inner.mirror.read(|directory| {
            let mut registrations = self.registrations();
            registrations.adopt(directory, lease);
            registrations.plan(directory, lease)
        });
        for step in steps {
            if self.check_etcd().is_err() {
                return;
            }
            let Err(err) = self.carry_out(&step, lease).await else { continue };
            warn!(
                error = &err as &dyn std::error::Error,
                "etcd could not be brought to what is registered; trying again"
            );
            return;
        }
    }

    async fn carry_out(&self, step: &Step, lease: LeaseId) -> Result<(), keyspace::Error> {
        let key = step.key();
        let (service, id) = key;
        // Somebody registers or withdraws it at the moment, or did since this was planned.
        let Ok(_writing) = self.lock_of(key).try_lock() else { return Ok(()) };
        if !self.inner.mirror.read(|directory| self.registrations().is_due(step, directory, lease))
        {
            return Ok(());
        }
        let store = &self.inner.store;
        let revision = match step {
            Step::Put(_, instance, hold) => {
                info!(
                    service,
                    addr = instance.addr,
                    "registering {} of {service} again",
                    instance.addr
                );
                store.put_instance(service, instance, *hold, lease).await?
            }
            Step::Withdraw(_) => store.withdraw(service, id).await?.unwrap_or(0),
            Step::Expire(_, revision) => {
                info!(service, instance.id = id, "an instance of {service} fell silent");
                store.expire(service, id, *revision).await?;
                self.registrations().forget(key);
                revision + 1
            }
        };
        self.inner.mirror.until(revision).await;
        Ok(())
    }
}

/// Reconciles at every nudge and sweep until the daemon stops.
pub(crate) async fn keep(registrar: Registrar, stop: CancellationToken) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = registrar.inner.nudge.notified() => {}
            _ = tick.tick() => {}
        }
        let passed = last.elapsed();
        last = Instant::now();
        if registrar.check_etcd().is_ok() {
            registrar.registrations().advance(passed.min(2 * SWEEP));
            registrar.reconcile().await;
        }
    }
}
