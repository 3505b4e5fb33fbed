//! The API, and etcd behind it.

use api::{
    error::ErrorCode,
    route::{Route, RouterEventKind, Sync},
};
use futures_util::StreamExt;
use keyspace::Keyspace;
use md5::{Digest, Md5};
use strowger_client::{Error, Strowger};

use crate::harness::{Backend, Harness, KEY, http_route, tcp_route};

fn code(result: Result<impl std::fmt::Debug, Error>) -> (ErrorCode, String) {
    let err = result.unwrap_err();
    (err.code().unwrap(), err.to_string())
}

#[tokio::test]
async fn routes_are_made_listed_replaced_and_removed() {
    let harness = Harness::start().await;
    let client = &harness.client;
    let made = client.create_route(&http_route("A.example", "one")).await.unwrap();
    assert_eq!(made.route.domain, "a.example");
    assert!(made.revision > 0 && made.route.created_at.is_some());
    let tcp = client.create_route(&tcp_route(0, "ssh")).await.unwrap();
    assert_eq!(client.routes(None).await.unwrap(), [tcp.route.clone(), made.route.clone()]);
    assert_eq!(
        client.routes(Some("controller/apps/1")).await.unwrap(),
        std::slice::from_ref(&made.route)
    );
    assert_eq!(client.routes(Some("nobody")).await.unwrap(), []);
    assert_eq!(client.route(&made.route.id).await.unwrap(), made);

    let again = client.create_route(&http_route("a.example.", "one")).await;
    let (exists, sentence) = code(again);
    assert_eq!(exists, ErrorCode::ObjectExists);
    assert!(sentence.contains("a.example already exists"), "{sentence}");
    let replaced = client.set_route(&http_route("a.example", "two")).await.unwrap();
    assert_eq!(replaced.route.created_at, made.route.created_at);
    assert_eq!(replaced.route.service, "two");
    let mut foreign = http_route("a.example", "evil");
    foreign.route.parent_ref = Some("controller/apps/2".into());
    assert_eq!(code(client.set_route(&foreign).await).0, ErrorCode::ObjectExists);

    let removed = client.delete_route(&made.route.id).await.unwrap();
    assert_eq!(removed.route.service, "two");
    assert!(client.route(&made.route.id).await.unwrap_err().is_not_found());
    assert_eq!(client.routes(None).await.unwrap(), [tcp.route]);
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_with_a_sentence() {
    let harness = Harness::start().await;
    let client = &harness.client;
    let refused = async |route, said: &str| {
        let (kind, sentence) = code(client.create_route(&route).await);
        assert_eq!(kind, ErrorCode::ValidationError, "{sentence}");
        assert!(sentence.contains(said), "{sentence}");
    };
    refused(http_route("a b", "one"), "domain").await;
    refused(http_route("a.example", "Bad Service"), "service").await;
    refused(api::route::NewRoute::default(), "service").await;
    let mut half = http_route("a.example", "one");
    half.route.tls_cert = Some("x".into());
    refused(half.clone(), "together").await;
    half.route.tls_key = Some("y".into());
    refused(half.clone(), "PEM").await;
    let (one, two) = ("a.example", "b.example");
    let make = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (one, two) = (make(one), make(two));
    half.route.tls_cert = Some(one.cert.pem());
    half.route.tls_key = Some(two.signing_key.serialize_pem());
    refused(half.clone(), "do not belong together").await;
    half.route.tls_key = Some(one.signing_key.serialize_pem());
    half.route.path = Some("/x".into());
    refused(half, "as a whole").await;
    let reserved = client.create_route(&tcp_route(2379, "ssh")).await;
    assert_eq!(code(reserved).0, ErrorCode::Conflict);
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port();
    let (kind, sentence) = code(client.create_route(&tcp_route(port, "ssh")).await);
    assert_eq!(kind, ErrorCode::Conflict);
    assert!(sentence.contains(&port.to_string()), "{sentence}");
}

#[tokio::test]
async fn nothing_but_ping_answers_without_the_key() {
    let harness = Harness::start().await;
    let base = format!("http://{}", harness.router.api[0]);
    for key in [None, Some("wrong".to_owned())] {
        let client = Strowger::new(base.as_str(), key);
        assert_eq!(code(client.routes(None).await).0, ErrorCode::Unauthorized);
        assert_eq!(
            code(client.create_route(&http_route("a", "b")).await).0,
            ErrorCode::Unauthorized
        );
        assert_eq!(code(client.sync(Default::default()).await).0, ErrorCode::Unauthorized);
    }
    assert_eq!(reqwest::get(format!("{base}/ping")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_bad_route_in_etcd_harms_no_other() {
    let harness = Harness::start().await;
    harness.up("app", Backend::named("fine").await.addr).await;
    let etcd = Keyspace::connect(&[harness.etcd.url()]).await.unwrap();
    etcd.put("/strowger/http/aaaa", "nonsense").await.unwrap();
    etcd.put("/strowger/http/bbbb", r#"{"type":"http","service":"app","domain":"x y"}"#)
        .await
        .unwrap();
    let mut bad = api::route::Route {
        kind: "http".into(),
        service: "app".into(),
        domain: "bad.example".into(),
        ..Default::default()
    };
    (bad.tls_cert, bad.tls_key) = (Some("no".into()), Some("no".into()));
    let id = "f5b1a5a8dbf9d6c1f3f2a0ad2a0b7c11";
    etcd.put(&format!("/strowger/http/{id}"), serde_json::to_vec(&bad).unwrap()).await.unwrap();
    harness.route("a.example", "app").await;
    assert_eq!(harness.connect().await.get("a.example", "/").await.1, "fine");

    let (again, _lifetime) =
        crate::harness::router(&harness.etcd.url(), &harness.discoverd.url).await;
    let client = Strowger::new(format!("http://{}", again.api[0]), Some(KEY.into()));
    assert_eq!(client.routes(None).await.unwrap().len(), 1);
    client.delete_route("http/aaaa").await.unwrap();
}

#[tokio::test]
async fn while_etcd_is_away_everything_is_served_and_afterwards_caught_up() {
    let mut harness = Harness::start().await;
    harness.up("app", Backend::named("fine").await.addr).await;
    harness.route("a.example", "app").await;
    harness.etcd.kill();
    let mut wire = harness.connect().await;
    assert_eq!(wire.get("a.example", "/").await.1, "fine");
    let refused = harness.client.create_route(&http_route("b.example", "app")).await;
    let (kind, sentence) = code(refused);
    assert_eq!(kind, ErrorCode::ServiceUnavailable);
    assert!(sentence.contains("etcd"), "{sentence}");
    assert_eq!(wire.get("a.example", "/").await.1, "fine");

    harness.etcd.restart().await;
    harness.route("c.example", "app").await;
    assert_eq!(wire.get("c.example", "/").await.1, "fine");
    assert_eq!(wire.get("a.example", "/").await.1, "fine");
}

#[tokio::test]
async fn who_follows_a_router_hears_of_routes_and_backends_as_they_change() {
    let harness = Harness::start().await;
    let client = &harness.client;
    let there = client.create_route(&http_route("a.example", "web")).await.unwrap();
    let mut events = std::pin::pin!(client.events().await.unwrap());
    let mut next = async || {
        let event = tokio::time::timeout(testkit::LIMIT, events.next()).await.unwrap();
        event.unwrap().unwrap()
    };
    let first = next().await;
    assert_eq!(
        (first.event, first.route.unwrap().id),
        (RouterEventKind::Set, there.route.id.clone())
    );
    let backend = Backend::named("one").await;
    harness.up("web", backend.addr).await;
    let up = next().await;
    assert_eq!(up.event, RouterEventKind::BackendUp);
    assert_eq!(up.backend.unwrap().addr, backend.addr.to_string());
    harness.discoverd.down("web", backend.addr);
    assert_eq!(next().await.event, RouterEventKind::BackendDown);
    assert_eq!(next().await.event, RouterEventKind::BackendDrained);
    client.delete_route(&there.route.id).await.unwrap();
    assert_eq!(next().await.event, RouterEventKind::Remove);
}

#[tokio::test]
async fn a_router_is_ready_when_it_knows_routes_and_backends_and_not_with_an_etcd_that_is_none() {
    let harness = Harness::start().await;
    let status = async |router: &strowger::Running| {
        let url = format!("http://{}/.well-known/status", router.api[0]);
        let answer = reqwest::get(url).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    testkit::wait_until("the router is ready", async || {
        let told = status(&harness.router).await;
        if told.0 == 200 { Ok(()) } else { Err(told) }
    })
    .await;
    for (etcd, discoverd, missing) in [
        ("http://127.0.0.1:9", harness.discoverd.url.as_str(), "routes"),
        (&harness.etcd.url(), "http://127.0.0.1:9", "backends"),
    ] {
        let (lost, lifetime) = crate::harness::router(etcd, discoverd).await;
        testkit::wait_until("the router tells what it lacks", async || {
            let told = status(&lost).await;
            if told.0 == 500 && told.1.contains(missing) { Ok(()) } else { Err(told) }
        })
        .await;
        lifetime.end();
    }
}

#[tokio::test]
async fn a_tcp_route_is_confirmed_by_no_router_that_does_not_get_its_port() {
    let harness = Harness::start().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    // As a router makes it on whose host the port is free.
    let route = Route {
        kind: "tcp".into(),
        id: format!("tcp/{}", hex::encode(Md5::digest(port.to_string()))),
        service: "app".into(),
        port,
        ..Route::default()
    };
    let etcd = Keyspace::connect(&[harness.etcd.url()]).await.unwrap();
    let key = format!("/strowger/{}", route.id);
    let routes = etcd.create(&key, serde_json::to_vec(&route).unwrap()).await.unwrap();
    let sync = |timeout_ms| harness.client.sync(Sync { routes, services: 0, timeout_ms });
    let (kind, sentence) = code(sync(300).await);
    assert_eq!(kind, ErrorCode::ServiceUnavailable);
    assert!(sentence.contains(&port.to_string()), "{sentence}");
    harness.route("a.example", "app").await;
    drop(taken);
    sync(10_000).await.unwrap();
}
