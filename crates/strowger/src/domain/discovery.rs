//! What discoverd's events say about the services.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use api::discoverd::{Event, EventKind};

/// A service's addresses and leader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServiceView {
    /// Its addresses; the value tells whether it is suspect: it vanished without being withdrawn and may be dead.
    pub(crate) backends: BTreeMap<SocketAddr, bool>,
    /// The leader's address.
    pub(crate) leader: Option<SocketAddr>,
}

/// All services, told event by event.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    services: BTreeMap<String, ServiceView>,
    /// What was told since the subscription began and is not complete yet.
    beginning: Option<BTreeMap<String, ServiceView>>,
    changed: BTreeSet<String>,
    revision: u64,
}

/// The changes of some services, up to a revision.
pub(crate) type Changes = (Vec<(String, Option<ServiceView>)>, u64);

impl Discovery {
    /// A subscription begins: everything is told again. Until it is complete the last state stands.
    pub(crate) fn begin(&mut self) {
        self.beginning = Some(BTreeMap::new());
    }

    /// Takes an event; answers with what changed, once that is complete.
    pub(crate) fn apply(&mut self, event: Event) -> Option<Changes> {
        self.revision = self.revision.max(event.revision);
        if event.kind == EventKind::Current {
            self.complete();
        } else {
            self.take(event);
        }
        (self.beginning.is_none()).then(|| self.changes())
    }

    /// An address that was suspect for too long, or refused a connection, is given up.
    pub(crate) fn forget(&mut self, service: &str, addr: SocketAddr) -> Option<Changes> {
        let view = self.services.get_mut(service)?;
        if view.backends.get(&addr) != Some(&true) {
            return None;
        }
        view.backends.remove(&addr);
        self.changed.insert(service.to_owned());
        (self.beginning.is_none()).then(|| self.changes())
    }

    fn take(&mut self, event: Event) {
        let services = self.beginning.as_mut().unwrap_or(&mut self.services);
        let Some(addr) = event.instance.and_then(|instance| instance.addr.parse().ok()) else {
            return;
        };
        let view = services.entry(event.service.clone()).or_default();
        match event.kind {
            EventKind::Up | EventKind::Update => drop(view.backends.insert(addr, false)),
            EventKind::Down if event.suspect => drop(view.backends.insert(addr, true)),
            EventKind::Down => {
                view.backends.remove(&addr);
                view.leader.take_if(|leader| *leader == addr);
            }
            EventKind::Leader => view.leader = Some(addr),
            EventKind::Current | EventKind::ServiceMeta | EventKind::Unknown => return,
        }
        if view.backends.is_empty() && view.leader.is_none() {
            services.remove(&event.service);
        }
        if self.beginning.is_none() {
            self.changed.insert(event.service);
        }
    }

    fn complete(&mut self) {
        let Some(now) = self.beginning.take() else { return };
        let names = self.services.keys().chain(now.keys());
        let differ = names.filter(|name| self.services.get(*name) != now.get(*name));
        self.changed.extend(differ.cloned().collect::<Vec<_>>());
        self.services = now;
    }

    fn changes(&mut self) -> Changes {
        let names = std::mem::take(&mut self.changed);
        let changes = names.into_iter().map(|name| {
            let view = self.services.get(&name).cloned();
            (name, view)
        });
        (changes.collect(), self.revision)
    }
}

#[cfg(test)]
mod tests {
    use api::discoverd::Instance;

    use super::*;

    fn event(kind: EventKind, service: &str, addr: &str, revision: u64) -> Event {
        let instance = Some(Instance::new("http", addr, BTreeMap::new()));
        let service = service.into();
        Event { service, kind, instance, term: None, service_meta: None, suspect: false, revision }
    }

    fn up(addr: &str, revision: u64) -> Event {
        event(EventKind::Up, "web", addr, revision)
    }

    fn current(revision: u64) -> Event {
        Event { instance: None, ..event(EventKind::Current, "", "", revision) }
    }

    fn addrs(changes: Option<Changes>) -> Vec<String> {
        let (changes, _) = changes.unwrap();
        let views = changes.into_iter().filter_map(|(_, view)| view);
        views.flat_map(|view| view.backends.into_keys()).map(|addr| addr.to_string()).collect()
    }

    #[test]
    fn the_last_state_stands_until_the_new_one_is_complete() {
        let mut discovery = Discovery::default();
        discovery.begin();
        assert_eq!(discovery.apply(up("10.0.0.1:80", 3)), None);
        assert_eq!(addrs(discovery.apply(current(3))), ["10.0.0.1:80"]);
        assert_eq!(addrs(discovery.apply(up("10.0.0.2:80", 4))), ["10.0.0.1:80", "10.0.0.2:80"]);

        discovery.begin();
        assert_eq!(discovery.apply(up("10.0.0.3:80", 9)), None);
        let changes = discovery.apply(current(9));
        assert_eq!(changes.as_ref().unwrap().1, 9);
        assert_eq!(addrs(changes), ["10.0.0.3:80"]);

        discovery.begin();
        assert_eq!(discovery.apply(current(10)), Some((vec![("web".into(), None)], 10)));
    }

    #[test]
    fn a_withdrawn_address_goes_and_a_vanished_one_becomes_suspect() {
        let mut discovery = Discovery::default();
        discovery.apply(up("10.0.0.1:80", 1));
        discovery.apply(up("10.0.0.2:80", 2));
        discovery.apply(event(EventKind::Leader, "web", "10.0.0.2:80", 3));
        let (changes, _) =
            discovery.apply(event(EventKind::Down, "web", "10.0.0.2:80", 4)).unwrap();
        assert_eq!(changes[0].1.as_ref().unwrap().leader, None);
        let vanished = Event { suspect: true, ..event(EventKind::Down, "web", "10.0.0.1:80", 5) };
        let (changes, _) = discovery.apply(vanished).unwrap();
        let addr = "10.0.0.1:80".parse().unwrap();
        assert!(changes[0].1.as_ref().unwrap().backends[&addr]);
        assert!(discovery.forget("web", "10.0.0.2:80".parse().unwrap()).is_none());
        assert_eq!(discovery.forget("web", addr).unwrap().0[0].0, "web");
    }
}
