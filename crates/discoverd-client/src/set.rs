//! What a watcher knows. Pure.

use std::{collections::BTreeMap, sync::Arc};

use api::discoverd::{Event, EventKind, Instance, Leader, ServiceMeta};

/// What is known of one service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceSet {
    /// The instances by their ids.
    pub instances: BTreeMap<String, Instance>,
    /// Instances that vanished without being withdrawn since this watch was last current: they may be alive. A router
    /// uses them last, for at most 60 s.
    pub suspects: BTreeMap<String, Instance>,
    /// Who leads.
    pub leader: Option<Leader>,
    /// The service's meta.
    pub meta: Option<ServiceMeta>,
    /// Every change up to this revision is in here.
    pub revision: u64,
    /// discoverd cannot be reached: this is the last answer.
    pub stale: bool,
    /// Everything there was has been told at least once.
    pub current: bool,
}

impl ServiceSet {
    /// The instances, oldest first.
    pub fn oldest_first(&self) -> Vec<&Instance> {
        let mut instances: Vec<_> = self.instances.values().collect();
        instances.sort_by_key(|instance| (instance.index, instance.id.as_str()));
        instances
    }

    /// The addresses as base URLs, oldest instance first.
    pub(crate) fn bases(&self) -> Arc<[String]> {
        self.oldest_first().into_iter().map(base).collect()
    }

    /// The leader's address as base URL, if there is a leader.
    pub(crate) fn leader_base(&self) -> Arc<[String]> {
        self.leader.iter().map(|leader| base(&leader.instance)).collect()
    }

    pub(crate) fn apply(&mut self, event: Event) {
        self.revision = self.revision.max(event.revision);
        match (event.kind, event.instance) {
            (EventKind::Up | EventKind::Update, Some(instance)) => {
                self.suspects.remove(&instance.id);
                if let Some(leader) =
                    self.leader.as_mut().filter(|one| one.instance.id == instance.id)
                {
                    leader.instance = instance.clone();
                }
                self.instances.insert(instance.id.clone(), instance);
            }
            (EventKind::Down, Some(instance)) => {
                self.instances.remove(&instance.id);
                if self.leader.as_ref().is_some_and(|leader| leader.instance.id == instance.id) {
                    self.leader = None;
                }
                if event.suspect {
                    self.suspects.insert(instance.id.clone(), instance);
                } else {
                    self.suspects.remove(&instance.id);
                }
            }
            (EventKind::Leader, Some(instance)) => {
                let term = event.term.unwrap_or_default();
                self.leader = Some(Leader { instance, term });
            }
            (EventKind::ServiceMeta, _) => self.meta = event.service_meta,
            (EventKind::Current, _) => self.current = true,
            _ => {}
        }
    }
}

/// `http://<addr>`.
fn base(instance: &Instance) -> String {
    format!("http://{}", instance.addr)
}

/// What is known of all services.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Services {
    /// Each service that has or had something since this watch was last current.
    pub services: BTreeMap<String, Arc<ServiceSet>>,
    /// Every change up to this revision is in here.
    pub revision: u64,
    /// discoverd cannot be reached: this is the last answer.
    pub stale: bool,
    /// Everything there was has been told at least once.
    pub current: bool,
}

impl Services {
    /// What is known of a service; an empty set for one nothing is known of.
    pub fn service(&self, name: &str) -> Arc<ServiceSet> {
        self.services.get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn apply(&mut self, event: Event) {
        self.revision = self.revision.max(event.revision);
        if event.kind == EventKind::Current {
            self.current = true;
        } else {
            let set = self.services.entry(event.service.clone()).or_default();
            Arc::make_mut(set).apply(event);
        }
    }
}

/// What a stream of events is gathered into.
pub(crate) trait Gather: Clone + Default + Send + Sync + 'static {
    fn apply(&mut self, event: Event);
    fn set_stale(&mut self, stale: bool);
    /// Takes over what a new listing cannot know from what was known before.
    fn succeed(&mut self, before: &Self);
}

impl Gather for ServiceSet {
    fn apply(&mut self, event: Event) {
        self.apply(event);
    }

    fn set_stale(&mut self, stale: bool) {
        self.stale = stale;
    }

    fn succeed(&mut self, before: &Self) {
        // Who vanished while nobody told us why may be alive.
        let gone = before.instances.iter().chain(&before.suspects);
        let gone = gone.filter(|(id, _)| !self.instances.contains_key(*id));
        self.suspects = gone.map(|(id, instance)| (id.clone(), instance.clone())).collect();
    }
}

impl Gather for Services {
    fn apply(&mut self, event: Event) {
        self.apply(event);
    }

    fn set_stale(&mut self, stale: bool) {
        self.stale = stale;
    }

    fn succeed(&mut self, before: &Self) {
        for (name, before) in &before.services {
            let set = self.services.entry(name.clone()).or_default();
            Arc::make_mut(set).succeed(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use api::discoverd::Term;

    use super::*;

    fn event(kind: EventKind, n: u64) -> Event {
        let mut instance = Instance::new("http", &format!("10.0.0.{n}:80"), [].into());
        instance.index = n;
        Event {
            service: "web".into(),
            kind,
            instance: Some(instance),
            term: Some(Term { epoch: 0, revision: n }),
            service_meta: None,
            suspect: false,
            revision: n,
        }
    }

    #[test]
    fn a_set_follows_the_events() {
        let mut set = ServiceSet::default();
        for event in
            [event(EventKind::Up, 9), event(EventKind::Up, 10), event(EventKind::Leader, 9)]
        {
            set.apply(event);
        }
        assert_eq!(*set.bases(), ["http://10.0.0.9:80", "http://10.0.0.10:80"]);
        assert_eq!(*set.leader_base(), ["http://10.0.0.9:80"]);
        set.apply(Event { suspect: true, revision: 11, ..event(EventKind::Down, 9) });
        assert_eq!((set.leader.as_ref(), set.suspects.len(), set.revision), (None, 1, 11));
        set.apply(event(EventKind::Down, 9));
        assert_eq!((set.instances.len(), set.suspects.len()), (1, 0));
    }

    #[test]
    fn who_is_missing_from_a_new_listing_is_suspect() {
        let (mut before, mut after) = (Services::default(), Services::default());
        before.apply(event(EventKind::Up, 1));
        before.apply(event(EventKind::Up, 2));
        after.apply(event(EventKind::Up, 2));
        after.succeed(&before);
        let set = after.service("web");
        assert_eq!(set.instances.len(), 1);
        assert_eq!(
            set.suspects.values().map(|one| &*one.addr).collect::<Vec<_>>(),
            ["10.0.0.1:80"]
        );
        assert_eq!(*after.service("nobody"), ServiceSet::default());
    }
}
