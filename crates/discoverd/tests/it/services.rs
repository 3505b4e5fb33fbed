//! What the API table promises while everything is well.

use api::{
    discoverd::{Event, EventKind, LeaderType, ServiceConfig, ServiceMeta},
    error::ErrorCode,
};
use discoverd_client::Discoverd;
use futures_util::StreamExt;
use testkit::Etcd;

use crate::support::{Daemon, addrs, instance, until};

#[tokio::test]
async fn a_watcher_sees_who_registers_and_who_is_withdrawn() {
    let etcd = Etcd::start().await;
    let daemon = Daemon::start(&etcd).await;
    let client = daemon.client();
    let mut watch = client.watch("web");
    assert!(until(&mut watch, "current", |set| set.current).await.instances.is_empty());

    let first = client.register_for_host("web", &instance(1)).await.unwrap();
    let second = client.register("web", &instance(2)).await.unwrap();
    assert!(second.revision > first.revision);
    let set = until(&mut watch, "two", |set| set.instances.len() == 2).await;
    assert_eq!(addrs(&set), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert!(set.revision >= second.revision);
    assert_eq!(
        client.instances("web").await.unwrap(),
        set.oldest_first().into_iter().cloned().collect::<Vec<_>>()
    );

    let again = client.register("web", &instance(2)).await.unwrap();
    assert_eq!(again, second, "a heartbeat changes nothing");
    let mut changed = instance(2);
    changed.meta.insert("more".into(), "facts".into());
    let changed = client.register("web", &changed).await.unwrap();
    let set = until(&mut watch, "the update", |set| set.revision >= changed.revision).await;
    assert_eq!(set.instances[&instance(2).id].meta["more"], "facts");

    let gone = client.unregister("web", &instance(1).id).await.unwrap();
    let set = until(&mut watch, "the withdrawal", |set| set.revision >= gone.revision).await;
    assert_eq!(addrs(&set), ["10.0.0.2:8080"]);
    assert!(set.suspects.is_empty(), "who was withdrawn is not suspect");
    client.unregister("web", &instance(1).id).await.unwrap();
}

#[tokio::test]
async fn all_services_are_watched_over_one_stream() {
    let etcd = Etcd::start().await;
    let daemon = Daemon::start(&etcd).await;
    let client = daemon.client();
    client.register_for_host("web", &instance(1)).await.unwrap();
    let mut watch = client.watch_all();
    assert_eq!(watch.wait_current().await.service("web").instances.len(), 1);
    let revision = client.register_for_host("db", &instance(2)).await.unwrap().revision;
    let services = watch.wait_for(|services| services.revision >= revision).await;
    assert_eq!(addrs(&services.service("db")), ["10.0.0.2:8080"]);
    assert_eq!(client.services().await.unwrap(), ["db", "web"]);

    let mut of_host = instance(3);
    of_host.meta.insert("FLYNN_HOST_ID".into(), "me".into());
    client.register_for_host("web", &of_host).await.unwrap();
    let mine = client.instances_of_host("me").await.unwrap();
    assert_eq!(mine.len(), 1);
    assert_eq!((mine[0].0.as_str(), mine[0].1.addr.as_str()), ("web", "10.0.0.3:8080"));

    client.remove_service("web").await.unwrap();
    watch.wait_for(|services| services.service("web").instances.is_empty()).await;
    assert_eq!(client.instances("web").await.unwrap_err().code(), Some(ErrorCode::ObjectNotFound));
}

#[tokio::test]
async fn the_oldest_leads_and_the_term_grows_with_every_leader() {
    let etcd = Etcd::start().await;
    let daemon = Daemon::start(&etcd).await;
    let client = daemon.client();
    let mut watch = client.watch("web");
    client.register_for_host("web", &instance(1)).await.unwrap();
    client.register_for_host("web", &instance(2)).await.unwrap();
    let leads = |n| {
        move |set: &discoverd_client::ServiceSet| {
            set.leader.as_ref().is_some_and(|leader| leader.instance.id == instance(n).id)
        }
    };
    let set = until(&mut watch, "the first leads", leads(1)).await;
    let first = set.leader.clone().unwrap();
    assert_eq!(client.leader("web").await.unwrap(), first);
    client.unregister("web", &instance(1).id).await.unwrap();
    let set = until(&mut watch, "the second leads", leads(2)).await;
    let second = set.leader.clone().unwrap();
    assert!(second.term > first.term, "{:?} > {:?}", second.term, first.term);
    // Who comes back is the youngest.
    client.register_for_host("web", &instance(1)).await.unwrap();
    assert_eq!(client.leader("web").await.unwrap(), second);
    client.unregister("web", &instance(2).id).await.unwrap();
    let set = until(&mut watch, "the first leads again", leads(1)).await;
    assert!(set.leader.as_ref().unwrap().term > second.term);
    assert_eq!(*watch.leader_endpoint().bases(), ["http://10.0.0.1:8080"]);
    assert_eq!(*watch.endpoint().bases(), ["http://10.0.0.1:8080"]);
    client.unregister("web", &instance(1).id).await.unwrap();
    until(&mut watch, "nobody leads", |set| set.leader.is_none()).await;
    assert!(client.leader("web").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_manual_leader_is_set_by_hand_or_with_the_meta() {
    let etcd = Etcd::start().await;
    let daemon = Daemon::start(&etcd).await;
    let client = daemon.client();
    let manual = ServiceConfig { leader_type: LeaderType::Manual };
    client.create_service("pg", manual).await.unwrap();
    let twice = client.create_service("pg", manual).await.unwrap_err();
    assert_eq!(twice.code(), Some(ErrorCode::ObjectExists));
    client.register_for_host("pg", &instance(1)).await.unwrap();
    client.register_for_host("pg", &instance(2)).await.unwrap();
    let client = daemon.client();
    let missing = client.set_leader("pg", &instance(3).id).await.unwrap_err();
    assert_eq!(missing.code(), Some(ErrorCode::ObjectNotFound));
    client.register_for_host("web", &instance(1)).await.unwrap();
    let refused = client.set_leader("web", &instance(1).id).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::ValidationError));

    let mut watch = client.watch("pg-x");
    drop(client.watch("pg-x"));
    assert!(until(&mut watch, "current", |set| set.current).await.instances.is_empty());
    client.create_service("db", manual).await.unwrap();
    client.register_for_host("db", &instance(1)).await.unwrap();
    client.register_for_host("db", &instance(2)).await.unwrap();
    client.set_leader("db", &instance(2).id).await.unwrap();
    assert_eq!(client.leader("db").await.unwrap().instance.id, instance(2).id);

    let data = serde_json::json!({ "primary": 1 });
    let meta = ServiceMeta { data, leader_id: Some(instance(1).id), index: 0 };
    assert!(client.meta("db").await.unwrap_err().is_not_found());
    let set = client.set_meta("db", &meta).await.unwrap();
    assert_eq!(client.leader("db").await.unwrap().instance.id, instance(1).id);
    let read = client.meta("db").await.unwrap();
    assert_eq!((read.index, &read.data), (set.index, &meta.data));
    let conflict = client.set_meta("db", &meta).await.unwrap_err();
    assert_eq!(conflict.code(), Some(ErrorCode::Conflict));
    let next = ServiceMeta { leader_id: None, index: read.index, ..meta };
    assert!(client.set_meta("db", &next).await.unwrap().index > read.index);
}

#[tokio::test]
async fn writes_need_the_key_and_reads_do_not() {
    let etcd = Etcd::start().await;
    let daemon = Daemon::start(&etcd).await;
    daemon.client().register_for_host("web", &instance(1)).await.unwrap();
    let open = Discoverd::new(&daemon.url(), None);
    let wrong = Discoverd::new(&daemon.url(), Some("wrong".into()));
    for client in [&open, &wrong] {
        let one = instance(1);
        let refused = [
            client.register("web", &one).await.unwrap_err(),
            client.unregister("web", &one.id).await.unwrap_err(),
            client.set_leader("web", &one.id).await.unwrap_err(),
            client.remove_service("web").await.unwrap_err(),
            client.create_service("other", ServiceConfig::default()).await.unwrap_err(),
        ];
        for err in refused {
            assert_eq!(err.code(), Some(ErrorCode::Unauthorized), "{err}");
        }
        assert_eq!(client.instances("web").await.unwrap().len(), 1);
    }
    let in_url = Discoverd::new(&format!("http://:{}@{}", "the key", daemon.addr), None);
    in_url.register("web", &instance(2)).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_with_the_field() {
    let etcd = Etcd::start().await;
    let daemon = Daemon::start(&etcd).await;
    let client = daemon.client();
    let mut wrong_id = instance(1);
    wrong_id.id = instance(2).id;
    for (service, one) in [("web", &wrong_id), ("we_b", &instance(1))] {
        let err = client.register(service, one).await.unwrap_err();
        assert_eq!(err.code(), Some(ErrorCode::ValidationError), "{err}");
    }
}

#[tokio::test]
async fn an_instance_without_heartbeat_ends_and_is_suspect() {
    let etcd = Etcd::start().await;
    let daemon = Daemon::start(&etcd).await;
    let client = daemon.client();
    let mut watch = client.watch("web");
    client.register("web", &instance(1)).await.unwrap();
    let kept = client.heartbeat("web", instance(2)).await.unwrap();
    client.register_for_host("web", &instance(3)).await.unwrap();
    until(&mut watch, "three", |set| set.instances.len() == 3).await;
    let set = until(&mut watch, "the silent one ends", |set| set.instances.len() == 2).await;
    assert_eq!(addrs(&set), ["10.0.0.2:8080", "10.0.0.3:8080"]);
    assert!(set.suspects.contains_key(&instance(1).id));
    kept.withdraw().await.unwrap();
    let set = until(&mut watch, "the withdrawal", |set| set.instances.len() == 1).await;
    assert!(!set.suspects.contains_key(&instance(2).id));
}

#[tokio::test]
async fn streams_tell_what_is_there_first_and_only_what_was_asked_for() {
    let etcd = Etcd::start().await;
    let daemon = Daemon::start(&etcd).await;
    let client = daemon.client();
    client.register_for_host("controller", &instance(1)).await.unwrap();
    testkit::wait_until("it leads", || client.leader("controller")).await;
    let first = async |path: &str, count: usize| -> Vec<EventKind> {
        let events = client.client().events::<Event>(path).await.unwrap();
        events.take(count).map(|event| event.unwrap().kind).collect().await
    };
    use EventKind::{Current, Leader, Up};
    assert_eq!(first("/services/controller", 3).await, [Up, Leader, Current]);
    assert_eq!(first("/services/controller/instances", 2).await, [Up, Current]);
    assert_eq!(first("/services/controller/leader", 1).await, [Leader]);
    assert_eq!(first("/services", 3).await, [Up, Leader, Current]);
    assert_eq!(first("/services/flynn-controller", 3).await, [Up, Leader, Current], "an old name");
}
