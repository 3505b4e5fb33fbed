//! The backends of every service that has a route.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::route::Drained;
use arc_swap::ArcSwap;
use tokio::{sync::watch, time::Instant};
use tracing::debug;

use super::{Backend, REQUEST_STILL_SECS, hold::Hold, lock, now_ms};
use crate::{
    domain::{
        budget::Budget,
        discovery::ServiceView,
        limits::Limits,
        outlier::Peers,
        sticky::{Keys, Tag},
    },
    gate::{FullError, Place, Share, Whole},
    meters::Tally,
};

/// The backends of a service at one moment.
#[derive(Debug, Default)]
pub(crate) struct Set {
    /// All of them.
    pub(crate) backends: Vec<Arc<Backend>>,
    /// The one that leads, if it is known.
    pub(crate) leader: Option<Arc<Backend>>,
    /// What stands for each of them, once it was asked for.
    tags: OnceLock<HashMap<Tag, usize>>,
}

impl Set {
    /// How many of them are ejected.
    pub(crate) fn peers(&self) -> Peers {
        let ejected = self.backends.iter().filter(|backend| backend.health.is_ejected()).count();
        Peers { ejected, all: self.backends.len() }
    }

    /// Which of them each tag stands for. The keys are always the same.
    pub(crate) fn tags(&self, keys: &Keys, service: &str) -> &HashMap<Tag, usize> {
        self.tags.get_or_init(|| {
            let addrs = self.backends.iter().map(|backend| backend.addr().to_string());
            let tags = addrs.enumerate().flat_map(|(index, addr)| {
                keys.tags(service, &addr).map(move |tag| (tag, index)).collect::<Vec<_>>()
            });
            tags.collect()
        })
    }
}

/// A service that routes lead to.
#[derive(Debug)]
pub(crate) struct Service {
    name: String,
    set: ArcSwap<Set>,
    share: Arc<Share>,
    /// All that were ever sent there.
    requests: AtomicU64,
    budget: Mutex<Budget>,
    hold: Hold,
    tally: Arc<Tally>,
    /// Whether it is counted alone.
    is_told_apart: bool,
}

/// Services that are counted alone. Those beyond are counted together: what is counted is kept, and told, for each.
const TOLD_APART_MAX: usize = 2000;

/// All there is at one moment.
#[derive(Debug)]
pub(crate) struct Census {
    /// Services that routes lead to, by name.
    pub(crate) services: Vec<Arc<Service>>,
    /// What is counted of all that are not told apart.
    pub(crate) others: Arc<Tally>,
    /// The backends of all of them.
    pub(crate) listed: Vec<Arc<Backend>>,
    /// Withdrawn with requests under way.
    pub(crate) leaving: Vec<Arc<Backend>>,
}

impl Service {
    fn new(name: &str, share: Arc<Share>, tally: Arc<Tally>, is_told_apart: bool) -> Self {
        Self {
            name: name.into(),
            set: ArcSwap::default(),
            share,
            requests: AtomicU64::new(0),
            budget: Mutex::default(),
            hold: Hold::default(),
            tally,
            is_told_apart,
        }
    }

    /// Waits a little if it had a backend a moment ago, and has none.
    pub(crate) async fn wait_for_backend(&self) {
        let is_filled = || !self.set.load().backends.is_empty();
        if !is_filled() {
            // Rare, and large.
            Box::pin(self.hold.wait(now_ms(), is_filled)).await;
        }
    }

    fn replace(&self, set: Set) {
        let (was_empty, is_empty) = (self.set.load().backends.is_empty(), set.backends.is_empty());
        // First: whoever sees that it is empty shall see since when.
        if is_empty && !was_empty {
            self.hold.empty(now_ms());
        }
        self.set.store(Arc::new(set));
        if was_empty && !is_empty {
            self.hold.fill();
        }
    }

    /// Counts a request.
    pub(crate) fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a request may be sent once more; it counts as sent then.
    pub(crate) fn may_repeat(&self) -> bool {
        let mut budget = lock(&self.budget);
        let left = budget.spend(self.requests.load(Ordering::Relaxed), now_ms());
        left.map(|left| *budget = left).is_some()
    }

    /// Its name in discoverd.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What is counted of its requests, and perhaps of those of others.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The same, unless it is of others, too.
    pub(crate) fn own_tally(&self) -> Option<&Tally> {
        self.is_told_apart.then_some(&*self.tally)
    }

    /// Its backends now.
    pub(crate) fn set(&self) -> Arc<Set> {
        self.set.load_full()
    }

    /// Counts one more that is under way to it, until the place is dropped.
    pub(crate) fn admit(&self) -> Result<Place, FullError> {
        self.share.take()
    }
}

/// An address is still registered, so it cannot be drained.
#[derive(Debug, thiserror::Error)]
#[error("{addr} is still registered for {service}")]
pub(crate) struct Registered {
    addr: SocketAddr,
    service: String,
}

/// All services.
#[derive(Debug)]
pub(crate) struct Services {
    inner: Mutex<Inner>,
    /// The revision of what is served; `None` before the first complete answer of discoverd.
    revision: watch::Sender<Option<u64>>,
    /// What is under way to all of them.
    requests: Arc<Whole>,
}

#[derive(Debug, Default)]
struct Inner {
    /// How long a backend may take for the first byte of an answer, in seconds.
    answer_secs: u32,
    views: HashMap<String, ServiceView>,
    routed: HashMap<String, Arc<Service>>,
    /// Each address with the number of routed services that have it.
    listed: HashMap<SocketAddr, (Arc<Backend>, usize)>,
    /// Withdrawn with requests under way.
    leaving: Vec<Arc<Backend>>,
    /// What is counted of services that are not told apart.
    others: Arc<Tally>,
}

impl Default for Services {
    fn default() -> Self {
        Self::new(Limits::NONE.requests, REQUEST_STILL_SECS)
    }
}

impl Services {
    /// None yet. To all together `requests_max` requests may be under way; an answer begins within `answer_secs` seconds.
    pub(crate) fn new(requests_max: u32, answer_secs: u32) -> Self {
        let inner = Mutex::new(Inner { answer_secs, ..Inner::default() });
        Self { inner, revision: watch::channel(None).0, requests: Whole::new(requests_max) }
    }

    /// The service of a name, for a route. It lives as long as somebody holds it.
    pub(crate) fn service(&self, name: &str) -> Arc<Service> {
        let mut inner = lock(&self.inner);
        if let Some(service) = inner.routed.get(name) {
            return service.clone();
        }
        let is_told_apart = inner.routed.len() < TOLD_APART_MAX;
        let tally = if is_told_apart { Arc::default() } else { inner.others.clone() };
        let share = self.requests.share();
        let service = Arc::new(Service::new(name, share, tally, is_told_apart));
        inner.routed.insert(name.into(), service.clone());
        let view = inner.views.get(name).cloned().unwrap_or_default();
        inner.update(&service, &view);
        service
    }

    /// Takes over what changed in discoverd, `None` for a service that is no more, and then its revision.
    pub(crate) fn apply(
        &self,
        changes: impl IntoIterator<Item = (String, Option<ServiceView>)>,
        revision: u64,
    ) {
        {
            let mut inner = lock(&self.inner);
            for (name, view) in changes {
                if let Some(service) = inner.routed.get(&name).cloned() {
                    inner.update(&service, &view.clone().unwrap_or_default());
                }
                match view {
                    Some(view) => inner.views.insert(name, view),
                    None => inner.views.remove(&name),
                };
            }
        }
        self.revision.send_if_modified(|seen| seen.replace(revision) != Some(revision));
    }

    /// The revision served.
    pub(crate) fn revision(&self) -> watch::Receiver<Option<u64>> {
        self.revision.subscribe()
    }

    /// Waits until nothing is under way to an address; after the time cuts what is and counts it. With `keep_open` it waits
    /// for requests only, and cuts nothing.
    pub(crate) async fn drain(
        &self,
        addr: SocketAddr,
        deadline: Instant,
        keep_open: bool,
    ) -> Result<Drained, Registered> {
        let leaving: Vec<_> = {
            let inner = lock(&self.inner);
            let registered = inner
                .views
                .iter()
                .find(|(_, view)| view.backends.get(&addr).is_some_and(|suspect| !suspect));
            if let Some((service, _)) = registered {
                return Err(Registered { addr, service: service.clone() });
            }
            let listed = inner.listed.get(&addr).map(|(backend, _)| backend);
            // A suspect: whoever asks knows that it is to end.
            listed.into_iter().for_each(|backend| backend.withdraw());
            let leaving = inner.leaving.iter().chain(listed);
            leaving.filter(|backend| backend.addr() == addr).cloned().collect()
        };
        let drained = async {
            for backend in &leaving {
                backend.until_drained(keep_open).await;
            }
        };
        let in_time = tokio::time::timeout_at(deadline, drained).await.is_ok();
        if keep_open {
            let open = leaving.iter().map(|backend| backend.in_flight()).sum();
            return Ok(Drained { closed: 0, open });
        }
        if in_time {
            return Ok(Drained::default());
        }
        let closed = leaving.iter().map(|backend| backend.cut()).sum();
        debug!(backend = %addr, closed, "cut what was still under way to {addr}");
        Ok(Drained { closed, open: 0 })
    }

    /// All there is now.
    pub(crate) fn census(&self) -> Census {
        let inner = lock(&self.inner);
        let mut services: Vec<_> = inner.routed.values().cloned().collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let listed = inner.listed.values().map(|(backend, _)| backend.clone()).collect();
        Census { services, others: inner.others.clone(), listed, leaving: inner.leaving.clone() }
    }

    /// The backends that may be dead.
    pub(crate) fn in_doubt(&self) -> Vec<Arc<Backend>> {
        let inner = lock(&self.inner);
        let all = inner.listed.values().map(|(backend, _)| backend).chain(&inner.leaving);
        all.filter(|backend| backend.is_in_doubt()).cloned().collect()
    }

    /// Closes what is idle or still for too long and forgets what nobody needs. Called `every` so often.
    pub(crate) fn sweep(&self, every: Duration) {
        let swept: Vec<_> = {
            let mut inner = lock(&self.inner);
            inner.leaving.retain(|backend| backend.in_flight() > 0);
            // Held by nobody but this map: no route leads there, and none can be made while we hold the lock.
            let unrouted = inner.routed.values().filter(|service| Arc::strong_count(service) == 1);
            for service in unrouted.cloned().collect::<Vec<_>>() {
                inner.update(&service, &ServiceView::default());
                inner.routed.remove(service.name());
            }
            let listed = inner.listed.values().map(|(backend, _)| backend);
            listed.chain(&inner.leaving).cloned().collect()
        };
        swept.iter().for_each(|backend| backend.sweep(every));
    }
}

impl Inner {
    /// Gives a service the backends of a view.
    fn update(&mut self, service: &Service, view: &ServiceView) {
        let before = service.set();
        let backends: Vec<_> =
            view.backends.iter().map(|(&addr, &suspect)| self.list(addr, suspect)).collect();
        let leader = view
            .leader
            .and_then(|addr| backends.iter().find(|backend| backend.addr() == addr).cloned());
        service.replace(Set { backends, leader, tags: OnceLock::new() });
        for backend in &before.backends {
            self.unlist(backend.addr());
        }
    }

    /// The backend of an address, for one more service.
    fn list(&mut self, addr: SocketAddr, suspect: bool) -> Arc<Backend> {
        let answer_secs = self.answer_secs;
        let new = || (Arc::new(Backend::new(addr, answer_secs)), 0);
        let (backend, services) = self.listed.entry(addr).or_insert_with(new);
        *services += 1;
        // A suspect that was given up, and is registered again.
        if !suspect && backend.is_gone() {
            let before = std::mem::replace(backend, new().0);
            if before.in_flight() > 0 {
                self.leaving.push(before);
            }
        }
        backend.suspect.store(suspect, Ordering::Relaxed);
        backend.clone()
    }

    fn unlist(&mut self, addr: SocketAddr) {
        let Some((backend, services)) = self.listed.get_mut(&addr) else { return };
        *services -= 1;
        if *services == 0 {
            backend.withdraw();
            if backend.in_flight() > 0 {
                self.leaving.push(backend.clone());
            }
            self.listed.remove(&addr);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Busy;

    fn view(addrs: &[&str]) -> Option<ServiceView> {
        let backends = addrs.iter().map(|addr| (addr.parse().unwrap(), false)).collect();
        Some(ServiceView { backends, leader: None })
    }

    fn addrs(service: &Service) -> Vec<String> {
        service.set().backends.iter().map(|backend| backend.addr().to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_withdrawn_backend_takes_nothing_new_and_is_drained_when_the_last_request_ends() {
        let services = Services::default();
        let service = services.service("web");
        services.apply([("web".into(), view(&["10.0.0.1:80", "10.0.0.2:80"]))], 5);
        assert_eq!(addrs(&service), ["10.0.0.1:80", "10.0.0.2:80"]);
        let backend = service.set().backends[0].clone();
        let busy = Busy::begin(&backend).unwrap();
        let soon = || Instant::now() + Duration::from_secs(1);
        assert!(services.drain(backend.addr(), soon(), false).await.is_err());

        services.apply([("web".into(), view(&["10.0.0.2:80"]))], 6);
        assert!(Busy::begin(&backend).is_none());
        assert_eq!(services.drain(backend.addr(), soon(), false).await.unwrap().closed, 1);
        drop(busy);
        assert_eq!(services.drain(backend.addr(), soon(), false).await.unwrap().closed, 0);
        assert_eq!(*services.revision().borrow(), Some(6));
        services.apply([], 4);
        assert_eq!(*services.revision().borrow(), Some(4), "what was told is gone");
    }

    #[tokio::test]
    async fn an_address_of_two_services_is_withdrawn_with_the_last_of_them() {
        let services = Services::default();
        let (one, two) = (services.service("one"), services.service("two"));
        let both = ["one", "two"].map(|name| (name.to_owned(), view(&["10.0.0.1:80"])));
        services.apply(both, 1);
        assert!(Arc::ptr_eq(&one.set().backends[0], &two.set().backends[0]));
        let backend = one.set().backends[0].clone();
        services.apply([("one".into(), None)], 2);
        assert!(Busy::begin(&backend).is_some());
        services.apply([("two".into(), None)], 3);
        assert!(Busy::begin(&backend).is_none());
    }

    #[tokio::test]
    async fn a_suspect_that_was_given_up_is_taken_again_when_it_is_registered() {
        let services = Services::default();
        let service = services.service("web");
        let mut suspect = view(&["10.0.0.1:80"]);
        suspect.as_mut().unwrap().backends.values_mut().for_each(|suspect| *suspect = true);
        services.apply([("web".into(), suspect.clone())], 1);
        let backend = service.set().backends[0].clone();
        assert!(Busy::begin(&backend).is_some());
        assert_eq!(services.drain(backend.addr(), Instant::now(), false).await.unwrap().closed, 0);
        assert!(Busy::begin(&backend).is_none());
        services.apply([("web".into(), suspect)], 2);
        assert!(Busy::begin(&service.set().backends[0]).is_none());
        services.apply([("web".into(), view(&["10.0.0.1:80"]))], 3);
        assert!(Busy::begin(&service.set().backends[0]).is_some());
        services.apply([("web".into(), None)], 4);
        assert!(lock(&services.inner).listed.is_empty());
    }

    #[tokio::test]
    async fn a_route_made_later_finds_the_backends_and_an_unused_service_is_forgotten() {
        let services = Services::default();
        services.apply([("web".into(), view(&["10.0.0.1:80"]))], 1);
        let service = services.service("web");
        assert_eq!(addrs(&service), ["10.0.0.1:80"]);
        drop(service);
        services.sweep(Duration::from_secs(1));
        assert!(lock(&services.inner).routed.is_empty());
        assert!(lock(&services.inner).listed.is_empty());
        assert_eq!(addrs(&services.service("web")), ["10.0.0.1:80"]);
    }
}
