use proptest::prelude::*;

use super::*;

fn held(addr: &str, index: u64) -> Held {
    let mut instance = Instance::new("tcp", addr, [].into());
    instance.index = index;
    instance.revision = index;
    Held { instance, hold: Hold::Host, lease: None }
}

fn fact(revision: u64, what: What) -> Fact {
    Fact { revision, service: "web".into(), what }
}

fn record(held: &Held, revision: u64) -> What {
    let (id, index) = (held.instance.id.clone(), held.instance.index);
    What::Leader(Some(LeaderRecord { id, index, revision }))
}

fn gone(held: &Held) -> What {
    What::Gone { id: held.instance.id.clone(), leased: true }
}

fn kinds(events: &[Event]) -> Vec<(EventKind, u64)> {
    events.iter().map(|event| (event.kind, event.revision)).collect()
}

#[test]
fn the_oldest_instance_shall_lead_and_leads_once_that_is_recorded() {
    let mut directory = Directory::default();
    let (old, young) = (held("10.0.0.1:80", 3), held("10.0.0.2:80", 5));
    let facts = vec![fact(3, What::Present(old.clone())), fact(5, What::Present(young.clone()))];
    assert_eq!(kinds(&directory.learn(facts, 5)), [(EventKind::Up, 3), (EventKind::Up, 5)]);
    assert_eq!(directory.leader("web"), None);
    let (wanted, at) = directory.service("web").unwrap().unsettled().unwrap();
    assert_eq!((wanted.unwrap().id, at), (old.instance.id.clone(), 0));

    let events = directory.learn(vec![fact(6, record(&old, 6))], 6);
    assert_eq!(kinds(&events), [(EventKind::Leader, 6)]);
    assert_eq!(directory.leader("web").unwrap().term, Term { epoch: 0, revision: 6 });
    assert_eq!(directory.unsettled().count(), 0);

    directory.learn(vec![fact(7, gone(&old))], 7);
    assert_eq!(directory.leader("web"), None, "a leader that is gone does not lead");
    assert_eq!(directory.unsettled().collect::<Vec<_>>(), ["web"]);
    let events = directory.learn(vec![fact(8, record(&young, 8))], 8);
    assert_eq!(events[0].term, Some(Term { epoch: 0, revision: 8 }));

    directory.learn(vec![fact(9, gone(&young))], 9);
    assert_eq!(directory.service("web").unwrap().unsettled(), Some((None, 8)));
}

#[test]
fn a_leader_that_registered_anew_is_recorded_anew() {
    let mut directory = Directory::default();
    let (first, again) = (held("10.0.0.1:80", 3), held("10.0.0.1:80", 9));
    directory.learn(vec![fact(3, What::Present(first.clone())), fact(4, record(&first, 4))], 4);
    directory.learn(vec![fact(9, gone(&first)), fact(9, What::Present(again))], 9);
    assert_eq!(directory.leader("web"), None);
    assert_eq!(directory.service("web").unwrap().unsettled().unwrap().1, 4);
}

#[test]
fn a_manual_leader_stays_until_another_is_set() {
    let mut directory = Directory::default();
    let (old, young) = (held("10.0.0.1:80", 3), held("10.0.0.2:80", 5));
    let manual = What::Config(Some(ServiceConfig { leader_type: LeaderType::Manual }));
    let set = LeaderRecord { id: young.instance.id.clone(), index: 0, revision: 6 };
    let facts = [manual, What::Present(old), What::Present(young.clone()), What::Leader(Some(set))];
    directory.learn(facts.into_iter().map(|what| fact(6, what)).collect(), 6);
    assert_eq!(directory.leader("web").unwrap().instance, young.instance);
    assert_eq!(directory.unsettled().count(), 0);
}

#[test]
fn who_was_withdrawn_is_not_suspect_and_who_vanished_is() {
    let mut directory = Directory::default();
    let (one, two) = (held("10.0.0.1:80", 3), held("10.0.0.2:80", 5));
    directory
        .learn(vec![fact(3, What::Present(one.clone())), fact(5, What::Present(two.clone()))], 5);
    let withdrawal = vec![fact(6, What::Withdrawn), fact(6, gone(&one)), fact(7, gone(&two))];
    let events = directory.learn(withdrawal, 7);
    assert_eq!(events.iter().map(|event| event.suspect).collect::<Vec<_>>(), [false, true]);
    assert!(directory.service("web").is_none(), "nothing is left of a service without anything");
}

#[test]
fn who_was_told_of_a_revision_was_told_everything_up_to_it() {
    let mut directory = Directory::default();
    directory.learn(vec![], 2);
    let facts = vec![
        fact(9, What::Present(held("10.0.0.1:80", 9))),
        fact(4, What::Present(held("10.0.0.2:80", 4))),
        fact(9, What::Present(held("10.0.0.3:80", 9))),
    ];
    let revisions: Vec<_> = directory.learn(facts, 9).iter().map(|event| event.revision).collect();
    assert_eq!(revisions, [3, 4, 9]);
}

proptest! {
    /// Whoever follows the events knows what the directory knows.
    #[test]
    fn the_events_tell_everything(steps in prop::collection::vec((0u8..4, any::<bool>()), 1..40)) {
        let mut directory = Directory::default();
        let mut followed = BTreeMap::new();
        let mut leader = None;
        let mut last = 0;
        for (revision, (n, up)) in (1u64..).zip(steps) {
            let one = held(&format!("10.0.0.{n}:80"), revision);
            let known = directory.instance("web", &one.instance.id).cloned();
            let what = match (up, known) {
                (true, Some(mut known)) => { known.instance.revision = revision; What::Present(known) }
                (true, None) => What::Present(one),
                (false, Some(known)) => gone(&known),
                (false, None) => What::Withdrawn,
            };
            let mut events = directory.learn(vec![fact(2 * revision, what)], 2 * revision);
            if let Some((wanted, _)) = directory.service("web").and_then(Service::unsettled) {
                let at = 2 * revision + 1;
                let wanted = wanted.map(|wanted| LeaderRecord { revision: at, ..wanted });
                events.extend(directory.learn(vec![fact(at, What::Leader(wanted))], at));
            }
            for event in events {
                prop_assert!(event.revision >= last);
                last = event.revision;
                let instance = event.instance.unwrap();
                match event.kind {
                    EventKind::Down => { followed.remove(&instance.id); }
                    EventKind::Leader => leader = Some(instance.id),
                    _ => { followed.insert(instance.id.clone(), instance); }
                }
            }
            let known: BTreeMap<_, _> = directory.service("web").into_iter().flat_map(Service::instances)
                .map(|held| (held.instance.id.clone(), held.instance.clone())).collect();
            prop_assert_eq!(&followed, &known);
            let leads = leader.as_ref().filter(|id| followed.contains_key(*id));
            let oldest = followed.values().min_by_key(|instance| instance.index).map(|one| &one.id);
            prop_assert_eq!(leads, oldest);
            prop_assert_eq!(directory.unsettled().count(), 0);
        }
    }
}
