use hickory_proto::op::Query;
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::domain::directory::{Fact, Held, Hold, LeaderRecord, What};

fn directory() -> Directory {
    let mut directory = Directory::default();
    let mut facts = Vec::new();
    let mut leader = None;
    for n in 1..=5u64 {
        let mut instance = Instance::new("tcp", &format!("10.0.0.{n}:5432"), [].into());
        instance.index = n;
        leader.get_or_insert(LeaderRecord { id: instance.id.clone(), index: n, revision: 9 });
        let what = What::Present(Held { instance, hold: Hold::Host, lease: None });
        facts.push(Fact { revision: n, service: "postgres".into(), what });
    }
    let six = Instance::new("http", "[fd00::1]:80", [].into());
    let what = What::Present(Held { instance: six, hold: Hold::Host, lease: None });
    facts.push(Fact { revision: 8, service: "six".into(), what });
    facts.push(Fact { revision: 9, service: "postgres".into(), what: What::Leader(leader) });
    directory.learn(facts, 9);
    directory
}

fn ask(name: &str, kind: RecordType, transport: Transport) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let query = message.to_vec().unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    match answer(&query, transport, Some(&directory()), &mut rng) {
        Answer::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn a_service_has_the_addresses_of_its_instances() {
    let all = ask("postgres.discoverd.", RecordType::A, Transport::Tcp);
    assert_eq!(all.answers.len(), 5);
    assert!(all.answers.iter().all(|record| record.ttl == 0));
    assert_eq!(ask("POSTGRES.Discoverd.", RecordType::A, Transport::Udp).answers.len(), 3);
    assert_eq!(ask("pg.discoverd.", RecordType::A, Transport::Tcp).answers.len(), 5);
    assert_eq!(addresses(&ask("six.discoverd.", RecordType::AAAA, Transport::Udp)), ["fd00::1"]);
}

#[test]
fn the_leader_and_each_instance_have_names() {
    let leader = ask("leader.postgres.discoverd.", RecordType::A, Transport::Udp);
    assert_eq!(addresses(&leader), ["10.0.0.1"]);
    let id = Instance::id_of("tcp", "10.0.0.3:5432");
    let one = ask(&format!("{id}.postgres._i.discoverd."), RecordType::A, Transport::Udp);
    assert_eq!(addresses(&one), ["10.0.0.3"]);
}

#[test]
fn srv_records_tell_the_ports_and_where_the_targets_are() {
    let srv = ask("_postgres._tcp.discoverd.", RecordType::SRV, Transport::Tcp);
    assert_eq!((srv.answers.len(), srv.additionals.len()), (5, 5));
    let RData::SRV(first) = &srv.answers[0].data else { panic!("{srv:?}") };
    assert_eq!((first.port, first.priority, first.weight), (5432, 1, 1));
    let target = ask(&first.target.to_ascii(), RecordType::A, Transport::Udp);
    assert_eq!(target.answers[0].data, srv.additionals[0].data);
    let plain = ask("postgres.discoverd.", RecordType::SRV, Transport::Tcp);
    assert_eq!(plain.answers.len(), 5);
}

#[test]
fn a_name_without_such_records_exists_and_an_unknown_name_does_not() {
    let empty = ask("postgres.discoverd.", RecordType::AAAA, Transport::Udp);
    assert_eq!(empty.metadata.response_code, ResponseCode::NoError);
    assert_eq!((empty.answers.len(), empty.authorities.len()), (0, 1));
    for unknown in ["nobody.discoverd.", "leader.nobody.discoverd.", "a.b.c.d.discoverd."] {
        let reply = ask(unknown, RecordType::A, Transport::Udp);
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{unknown}");
        assert_eq!(reply.authorities.len(), 1);
    }
}

#[test]
fn other_zones_are_for_others_and_nothing_is_said_before_something_is_known() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii("example.com.").unwrap(), RecordType::A));
    let query = message.to_vec().unwrap();
    assert_eq!(answer(&query, Transport::Udp, Some(&directory()), &mut rng), Answer::Forward);
    assert!(failure(&query).is_some());
    let response = ask("postgres.discoverd.", RecordType::A, Transport::Udp).to_vec().unwrap();
    assert_eq!(answer(&response, Transport::Udp, Some(&directory()), &mut rng), Answer::Ignore);
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii("a.discoverd.").unwrap(), RecordType::A));
    let Answer::Reply(reply) = answer(&message.to_vec().unwrap(), Transport::Udp, None, &mut rng)
    else {
        panic!("no reply")
    };
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut rng = StdRng::seed_from_u64(1);
        let _ = answer(&bytes, Transport::Udp, Some(&directory()), &mut rng);
        let _ = failure(&bytes);
    }

    #[test]
    fn no_damaged_query_makes_it_panic(at in 0usize..60, byte: u8, cut in 0usize..60) {
        let mut message = Message::query();
        let name = Name::from_ascii("_postgres._tcp.discoverd.").unwrap();
        message.add_query(Query::query(name, RecordType::ANY));
        let mut query = message.to_vec().unwrap();
        if let Some(place) = query.get_mut(at) { *place = byte }
        query.truncate(query.len().saturating_sub(cut % 8));
        let mut rng = StdRng::seed_from_u64(1);
        let _ = answer(&query, Transport::Tcp, Some(&directory()), &mut rng);
    }

    #[test]
    fn no_name_makes_it_panic(labels in prop::collection::vec("[ -~]{1,20}", 0..5)) {
        let labels: Vec<String> = labels.into_iter().chain(["discoverd".to_owned()]).collect();
        if let Ok(name) = Name::from_labels(labels.iter().map(String::as_bytes)) {
            let mut message = Message::query();
            message.add_query(Query::query(name, RecordType::A));
            let mut rng = StdRng::seed_from_u64(1);
            if let Ok(query) = message.to_vec() {
                let _ = answer(&query, Transport::Udp, Some(&directory()), &mut rng);
            }
        }
    }
}
