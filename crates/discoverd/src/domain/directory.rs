//! All services, as etcd's history tells them.

use std::collections::{BTreeMap, BTreeSet};

use api::discoverd::{
    Event, EventKind, Instance, Leader, LeaderType, ServiceConfig, ServiceMeta, Term,
};
use keyspace::LeaseId;
use serde::{Deserialize, Serialize};

/// What ends a registration besides its withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Only the end of its host.
    Host,
    /// Its own silence.
    Heartbeat,
}

/// A registered instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// As its watchers see it.
    pub instance: Instance,
    /// What ends it.
    pub hold: Hold,
    /// The lease it ends with: that of the discoverd that holds it.
    pub lease: Option<LeaseId>,
}

/// Who leads a service, as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRecord {
    /// The instance.
    pub id: String,
    /// Its index; `0` for any, where a person or a program chose the leader.
    pub index: u64,
    /// The revision of the record.
    #[serde(skip)]
    pub revision: u64,
}

/// What became true at a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// etcd's revision.
    pub revision: u64,
    /// The service; empty where none is concerned.
    pub service: String,
    /// What.
    pub what: What,
}

impl Fact {
    /// One that came from another discoverd: what a record does not say of itself, the fact does.
    pub fn completed(mut self) -> Self {
        if let What::Leader(Some(record)) = &mut self.what {
            record.revision = self.revision;
        }
        self
    }
}

/// Kinds of facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// An instance is registered.
    Present(Held),
    /// An instance is no more.
    Gone {
        /// Which.
        id: String,
        /// Whether it had a lease that may have run out.
        leased: bool,
    },
    /// The service was configured, or its configuration deleted.
    Config(Option<ServiceConfig>),
    /// The service's meta was set or deleted.
    Meta(#[serde(with = "perhaps")] Option<serde_json::Value>),
    /// The leader was recorded, or the record deleted.
    Leader(Option<LeaderRecord>),
    /// The cluster's epoch.
    Epoch(u64),
    /// All instances that are gone at this revision were withdrawn.
    Withdrawn,
}

/// An option as a list, for a value that may be `null` itself.
mod perhaps {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_slice().serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.pop())
    }
}

/// One service.
#[derive(Debug, Default)]
pub struct Service {
    instances: BTreeMap<String, Held>,
    ages: BTreeSet<(u64, String)>,
    config: Option<ServiceConfig>,
    meta: Option<ServiceMeta>,
    record: Option<LeaderRecord>,
    announced: Option<(String, Term)>,
    revision: u64,
}

impl Service {
    /// Its instances, oldest first.
    pub fn instances(&self) -> impl Iterator<Item = &Held> {
        self.ages.iter().filter_map(|(_, id)| self.instances.get(id))
    }

    /// One instance.
    pub fn instance(&self, id: &str) -> Option<&Held> {
        self.instances.get(id)
    }

    /// Its meta, with the index to give when it is changed.
    pub fn meta(&self) -> Option<&ServiceMeta> {
        self.meta.as_ref()
    }

    /// How it was configured, if it was.
    pub fn config(&self) -> Option<ServiceConfig> {
        self.config
    }

    /// Who is recorded as its leader, there or not.
    pub fn record(&self) -> Option<&LeaderRecord> {
        self.record.as_ref()
    }

    /// How its leader is chosen.
    pub fn leader_type(&self) -> LeaderType {
        self.config.unwrap_or_default().leader_type
    }

    /// The revision of the last event about it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Its leader: who is recorded, if still there.
    pub fn leader(&self, epoch: u64) -> Option<Leader> {
        let record = self.record.as_ref()?;
        let held = self.instances.get(&record.id)?;
        if record.index != 0 && record.index != held.instance.index {
            return None;
        }
        let term = Term { epoch, revision: record.revision };
        Some(Leader { instance: held.instance.clone(), term })
    }

    /// The record there should be, and the revision of the one there is, where the two differ.
    pub fn unsettled(&self) -> Option<(Option<LeaderRecord>, u64)> {
        if self.leader_type() == LeaderType::Manual {
            return None;
        }
        let present = self.record.as_ref();
        let at = present.map_or(0, |record| record.revision);
        match (self.ages.first(), present) {
            (None, None) => None,
            (None, Some(_)) => Some((None, at)),
            (Some((index, id)), Some(record)) if record.id == *id && record.index == *index => None,
            (Some((index, id)), _) => {
                Some((Some(LeaderRecord { id: id.clone(), index: *index, revision: 0 }), at))
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.instances.is_empty()
            && self.config.is_none()
            && self.meta.is_none()
            && self.record.is_none()
    }

    fn insert(&mut self, held: Held) -> EventKind {
        let id = held.instance.id.clone();
        self.ages.insert((held.instance.index, id.clone()));
        match self.instances.insert(id, held) {
            Some(_) => EventKind::Update,
            None => EventKind::Up,
        }
    }

    fn remove(&mut self, id: &str) -> Option<Held> {
        let held = self.instances.remove(id)?;
        self.ages.remove(&(held.instance.index, id.to_owned()));
        Some(held)
    }
}

/// All services.
#[derive(Debug, Default)]
pub struct Directory {
    services: BTreeMap<String, Service>,
    unsettled: BTreeSet<String>,
    epoch: u64,
    withdrawn: u64,
    revision: u64,
}

impl Directory {
    /// A service, if anything is known of it.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.get(name)
    }

    /// One instance.
    pub fn instance(&self, service: &str, id: &str) -> Option<&Held> {
        self.services.get(service)?.instance(id)
    }

    /// All services with their names.
    pub fn services(&self) -> impl Iterator<Item = (&str, &Service)> {
        self.services.iter().map(|(name, service)| (name.as_str(), service))
    }

    /// The leader of a service.
    pub fn leader(&self, service: &str) -> Option<Leader> {
        self.services.get(service)?.leader(self.epoch)
    }

    /// The services whose recorded leader is not the one there should be.
    pub fn unsettled(&self) -> impl Iterator<Item = &str> {
        self.unsettled.iter().map(String::as_str)
    }

    /// The cluster's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The revision up to which everything is known.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Learns facts, in their order, after which everything up to `revision` is known. Answers with what watchers are
    /// told, stamped so that who was told of revision R has been told everything up to R.
    pub fn learn(&mut self, facts: Vec<Fact>, revision: u64) -> Vec<Event> {
        let before = self.revision;
        let mut events = Vec::new();
        for fact in facts {
            self.learn_one(fact, &mut events);
        }
        self.revision = revision;
        stamp(&mut events, before);
        for event in &events {
            if let Some(service) = self.services.get_mut(&event.service) {
                service.revision = service.revision.max(event.revision);
            }
        }
        events
    }

    fn learn_one(&mut self, Fact { revision, service: name, what }: Fact, events: &mut Vec<Event>) {
        match what {
            What::Epoch(epoch) => return self.epoch = epoch,
            What::Withdrawn => return self.withdrawn = revision,
            _ => {}
        }
        let event = |kind| Event {
            service: name.clone(),
            kind,
            instance: None,
            term: None,
            service_meta: None,
            suspect: false,
            revision,
        };
        let service = self.services.entry(name.clone()).or_default();
        match what {
            What::Present(held) => {
                let instance = Some(held.instance.clone());
                events.push(Event { instance, ..event(service.insert(held)) });
            }
            What::Gone { id, leased } => {
                if let Some(held) = service.remove(&id) {
                    let suspect = leased && self.withdrawn != revision;
                    let instance = Some(held.instance);
                    events.push(Event { instance, suspect, ..event(EventKind::Down) });
                }
            }
            What::Config(config) => service.config = config,
            What::Meta(data) => {
                service.meta =
                    data.map(|data| ServiceMeta { data, leader_id: None, index: revision });
                let service_meta = service.meta.clone();
                events.push(Event { service_meta, ..event(EventKind::ServiceMeta) });
            }
            What::Leader(record) => service.record = record,
            What::Epoch(_) | What::Withdrawn => {}
        }
        let leader = service.leader(self.epoch);
        let announce = leader.as_ref().map(|leader| (leader.instance.id.clone(), leader.term));
        if announce != service.announced {
            service.announced = announce;
            if let Some(Leader { instance, term }) = leader {
                let (instance, term) = (Some(instance), Some(term));
                events.push(Event { instance, term, ..event(EventKind::Leader) });
            }
        }
        if service.unsettled().is_some() {
            self.unsettled.insert(name.clone());
        } else {
            self.unsettled.remove(&name);
        }
        if service.is_empty() {
            self.services.remove(&name);
        }
    }

    /// What a new watcher of one service is told of the present.
    pub fn present(&self, name: &str) -> Vec<Event> {
        let Some(service) = self.services.get(name) else { return Vec::new() };
        let event = |kind| Event {
            service: name.into(),
            kind,
            instance: None,
            term: None,
            service_meta: None,
            suspect: false,
            revision: self.revision,
        };
        let mut events: Vec<Event> = service
            .instances()
            .map(|held| Event { instance: Some(held.instance.clone()), ..event(EventKind::Up) })
            .collect();
        if let Some(Leader { instance, term }) = service.leader(self.epoch) {
            let (instance, term) = (Some(instance), Some(term));
            events.push(Event { instance, term, ..event(EventKind::Leader) });
        }
        if let Some(meta) = &service.meta {
            let service_meta = Some(meta.clone());
            events.push(Event { service_meta, ..event(EventKind::ServiceMeta) });
        }
        // Not before the last of them has the watcher been told everything.
        stamp(&mut events, 0);
        events
    }

    /// The event that ends what [`Directory::present`] gives.
    pub fn current(&self, service: &str) -> Event {
        Event {
            service: service.into(),
            kind: EventKind::Current,
            instance: None,
            term: None,
            service_meta: None,
            suspect: false,
            revision: self.revision,
        }
    }
}

/// Lowers stamps so that an event is stamped lower than every later one that tells of an earlier or the same revision,
/// but none lower than `floor`.
fn stamp(events: &mut [Event], floor: u64) {
    let mut limit = u64::MAX;
    for event in events.iter_mut().rev() {
        event.revision = event.revision.min(limit).max(floor);
        limit = event.revision.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests;
