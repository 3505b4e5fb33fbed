//! What discoverd says about the services, as far as requests are concerned.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use api::discoverd::Instance;
use discoverd_client::{ServiceSet, Services};

/// A backend that vanished without being withdrawn is used, last of all, for so long.
const SUSPECT_LIMIT: Duration = Duration::from_secs(60);

/// A service's addresses and leader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServiceView {
    /// Its addresses; the value tells whether it is suspect: it vanished without being withdrawn and may be dead.
    pub(crate) backends: BTreeMap<SocketAddr, bool>,
    /// The leader's address.
    pub(crate) leader: Option<SocketAddr>,
}

/// All services as they were when last looked at.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    seen: BTreeMap<String, (Arc<ServiceSet>, ServiceView)>,
    suspect_since: BTreeMap<(String, SocketAddr), Instant>,
}

impl Discovery {
    /// What is different now; `None` for a service that is no more.
    pub(crate) fn changes(
        &mut self,
        services: &Services,
        now: Instant,
    ) -> Vec<(String, Option<ServiceView>)> {
        let mut changes = Vec::new();
        for (name, set) in &services.services {
            let before = self.seen.get(name);
            if before.is_some_and(|(seen, _)| set.suspects.is_empty() && Arc::ptr_eq(seen, set)) {
                continue;
            }
            let before = before.map(|(_, view)| view.clone());
            let view = self.view(name, set, now);
            if before.as_ref() != Some(&view) {
                changes.push((name.clone(), Some(view.clone())));
            }
            self.seen.insert(name.clone(), (set.clone(), view));
        }
        self.seen.retain(|name, _| {
            let there = services.services.contains_key(name);
            if !there {
                changes.push((name.clone(), None));
            }
            there
        });
        self.suspect_since.retain(|(name, _), _| self.seen.contains_key(name));
        changes
    }

    /// Whether time alone will change something.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.suspect_since.is_empty()
    }

    fn view(&mut self, name: &str, set: &ServiceSet, now: Instant) -> ServiceView {
        let mut backends = BTreeMap::new();
        for addr in set.suspects.values().filter_map(addr) {
            let key = (name.to_owned(), addr);
            let since = *self.suspect_since.entry(key).or_insert(now);
            if now.saturating_duration_since(since) < SUSPECT_LIMIT {
                backends.insert(addr, true);
            }
        }
        self.suspect_since.retain(|(service, addr), _| {
            service != name || set.suspects.values().any(|one| one.addr == addr.to_string())
        });
        backends.extend(set.instances.values().filter_map(addr).map(|addr| (addr, false)));
        let leader = set.leader.as_ref().and_then(|leader| addr(&leader.instance));
        ServiceView { backends, leader }
    }
}

fn addr(instance: &Instance) -> Option<SocketAddr> {
    instance.addr.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(addrs: &[&str]) -> BTreeMap<String, Instance> {
        let instances = addrs.iter().map(|addr| Instance::new("http", addr, BTreeMap::new()));
        instances.map(|instance| (instance.id.clone(), instance)).collect()
    }

    fn web(up: &[&str], suspects: &[&str]) -> Services {
        let (instances, suspects) = (instances(up), instances(suspects));
        let set = ServiceSet { instances, suspects, ..ServiceSet::default() };
        let services = [("web".to_owned(), Arc::new(set))].into();
        Services { services, ..Services::default() }
    }

    fn backends(changes: &[(String, Option<ServiceView>)]) -> Vec<(String, bool)> {
        let view = changes.first().and_then(|(_, view)| view.as_ref()).unwrap();
        view.backends.iter().map(|(addr, suspect)| (addr.to_string(), *suspect)).collect()
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let (mut discovery, now) = (Discovery::default(), Instant::now());
        let services = web(&["10.0.0.1:80", "no address"], &[]);
        let changes = discovery.changes(&services, now);
        assert_eq!(backends(&changes), [("10.0.0.1:80".into(), false)]);
        assert_eq!(discovery.changes(&services, now), []);
        assert_eq!(discovery.changes(&web(&["10.0.0.1:80"], &[]), now), []);
        assert_eq!(discovery.changes(&Services::default(), now), [("web".into(), None)]);
    }

    #[test]
    fn a_suspect_is_given_up_in_time_unless_it_comes_back() {
        let (mut discovery, now) = (Discovery::default(), Instant::now());
        let suspect = web(&[], &["10.0.0.1:80"]);
        let changes = discovery.changes(&suspect, now);
        assert_eq!(backends(&changes), [("10.0.0.1:80".into(), true)]);
        assert!(discovery.is_waiting());
        assert_eq!(discovery.changes(&suspect, now + SUSPECT_LIMIT / 2), []);
        assert_eq!(backends(&discovery.changes(&suspect, now + SUSPECT_LIMIT)), []);
        let back = discovery.changes(&web(&["10.0.0.1:80"], &[]), now + SUSPECT_LIMIT);
        assert_eq!(backends(&back), [("10.0.0.1:80".into(), false)]);
        assert!(!discovery.is_waiting());
        let again = discovery.changes(&suspect, now + SUSPECT_LIMIT * 2);
        assert_eq!(backends(&again), [("10.0.0.1:80".into(), true)]);
    }
}
