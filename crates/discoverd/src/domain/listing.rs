//! Everything that is known, as facts, and what has changed since: how one discoverd learns from another.

use std::collections::BTreeMap;

use super::directory::{Directory, Fact, Held, Service, What};

impl Directory {
    /// Facts from which an empty directory becomes this one.
    pub fn facts(&self) -> Vec<Fact> {
        let epoch = Fact { revision: 0, service: String::new(), what: What::Epoch(self.epoch()) };
        let of_services = self.services().flat_map(|(name, service)| of_service(name, service));
        std::iter::once(epoch).chain(of_services).collect()
    }

    /// What must have happened until everything was as `listing` says, at `revision`. What is no more is gone at that
    /// revision; an instance that went and came again is both.
    pub fn difference(&self, listing: Vec<Fact>, revision: u64) -> Vec<Fact> {
        let subject = |fact: &Fact| (fact.service.clone(), Of::from(&fact.what));
        let mut known: BTreeMap<_, Fact> =
            self.facts().into_iter().map(|fact| (subject(&fact), fact)).collect();
        let mut news = Vec::new();
        for fact in listing {
            match known.remove(&subject(&fact)) {
                Some(known) if known == fact => continue,
                Some(known) if known.is_of_another_life(&fact) => {
                    news.push(known.ended(fact.revision));
                }
                _ => {}
            }
            news.push(fact);
        }
        news.extend(known.into_values().map(|known| known.ended(revision)));
        // As they happened, for their events are stamped in that order.
        news.sort_by_key(|fact| fact.revision);
        news
    }
}

impl Fact {
    /// Whether another instance of the same name took this one's place.
    fn is_of_another_life(&self, other: &Self) -> bool {
        match (&self.what, &other.what) {
            (What::Present(one), What::Present(other)) => {
                one.instance.index != other.instance.index
            }
            _ => false,
        }
    }

    /// That it is no more so.
    fn ended(self, revision: u64) -> Self {
        let what = match self.what {
            What::Present(Held { instance, lease, .. }) => {
                What::Gone { id: instance.id, leased: lease.is_some() }
            }
            What::Config(_) => What::Config(None),
            What::Meta(_) => What::Meta(None),
            What::Leader(_) => What::Leader(None),
            // They do not end.
            lasting @ (What::Gone { .. } | What::Epoch(_) | What::Withdrawn) => lasting,
        };
        Self { revision, what, ..self }
    }
}

/// What a fact is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Instance(String),
    Config,
    Meta,
    Leader,
    Cluster,
}

impl From<&What> for Of {
    fn from(what: &What) -> Self {
        match what {
            What::Present(held) => Self::Instance(held.instance.id.clone()),
            What::Gone { id, .. } => Self::Instance(id.clone()),
            What::Config(_) => Self::Config,
            What::Meta(_) => Self::Meta,
            What::Leader(_) => Self::Leader,
            What::Epoch(_) | What::Withdrawn => Self::Cluster,
        }
    }
}

fn of_service(name: &str, service: &Service) -> Vec<Fact> {
    let fact = |revision, what| Fact { revision, service: name.into(), what };
    let instances = service.instances();
    let mut facts: Vec<Fact> =
        instances.map(|held| fact(held.instance.revision, What::Present(held.clone()))).collect();
    facts.extend(service.config().map(|config| fact(0, What::Config(Some(config)))));
    facts.extend(service.meta().map(|meta| fact(meta.index, What::Meta(Some(meta.data.clone())))));
    let record = service.record();
    facts.extend(record.map(|record| fact(record.revision, What::Leader(Some(record.clone())))));
    facts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use api::discoverd::{Event, Instance, LeaderType, ServiceConfig};
    use proptest::prelude::*;

    use super::*;
    use crate::domain::directory::{Hold, LeaderRecord};

    fn a_fact(revision: u64) -> impl Strategy<Value = Fact> {
        let service = prop::sample::select(vec!["web", "db"]);
        (service, 0u8..8, 0u8..3).prop_map(move |(service, what, n)| {
            let mut instance = Instance::new("tcp", &format!("10.0.0.{n}:80"), [].into());
            let id = instance.id.clone();
            let what = match what {
                0 => What::Config(Some(ServiceConfig { leader_type: LeaderType::Manual })),
                1 => What::Config(None),
                2 => What::Meta(Some(serde_json::Value::Null)),
                3 => What::Meta(None),
                4 => What::Leader(Some(LeaderRecord { id, index: 0, revision })),
                5 => What::Gone { id, leased: true },
                _ => {
                    (instance.index, instance.revision) = (revision, revision);
                    What::Present(Held { instance, hold: Hold::Host, lease: None })
                }
            };
            Fact { revision, service: service.into(), what }
        })
    }

    fn history() -> impl Strategy<Value = Vec<Fact>> {
        let ten =
            (0..10_usize).prop_flat_map(|len| (1..=len as u64).map(a_fact).collect::<Vec<_>>());
        ten.prop_map(|facts| {
            // Nothing is registered over another: etcd keeps an instance's index until it is gone.
            let mut seen = Directory::default();
            facts
                .into_iter()
                .filter(|fact| {
                    let new = match &fact.what {
                        What::Present(held) => {
                            seen.instance(&fact.service, &held.instance.id).is_none()
                        }
                        _ => true,
                    };
                    if new {
                        seen.learn(vec![fact.clone()], fact.revision);
                    }
                    new
                })
                .collect()
        })
    }

    fn after(facts: &[Fact]) -> Directory {
        let mut directory = Directory::default();
        directory.learn(facts.to_vec(), 100);
        directory
    }

    fn told(directory: &Directory) -> (Vec<Fact>, BTreeSet<String>, Vec<Vec<Event>>) {
        let present = ["web", "db"].map(|service| directory.present(service));
        let unsettled = directory.unsettled().map(str::to_owned).collect();
        (directory.facts(), unsettled, present.into())
    }

    proptest! {
        #[test]
        fn a_listing_tells_everything_and_the_same_listing_nothing_more(
            before in history(), now in history(),
        ) {
            let (mut directory, now) = (after(&before), after(&now));
            let wire = serde_json::to_vec(&now.facts()).unwrap();
            let listing: Vec<Fact> = serde_json::from_slice(&wire).unwrap();
            let listing: Vec<Fact> = listing.into_iter().map(Fact::completed).collect();
            prop_assert_eq!(&listing, &now.facts());
            directory.learn(directory.difference(listing.clone(), 100), 100);
            prop_assert_eq!(told(&directory), told(&now));
            prop_assert_eq!(directory.difference(listing, 101), vec![]);
        }
    }
}
