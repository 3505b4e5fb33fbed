//! Backends that fail, come and go.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use api::route::Drain;
use futures_util::future::join_all;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::harness::{Backend, Harness, Wire, nowhere, scripted};

#[tokio::test]
async fn a_backend_that_refuses_connections_costs_no_request() {
    let harness = Harness::start().await;
    for _ in 0..3 {
        harness.up("app", nowhere()).await;
    }
    harness.up("app", Backend::named("alive").await.addr).await;
    harness.route("a.example", "app").await;
    let browser = harness.browser(&["a.example"]);
    for _ in 0..50 {
        let answer = browser.get(harness.url("a.example", "/")).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "alive");
        let post = browser.post(harness.url("a.example", "/")).body(vec![b'x'; 10 << 10]);
        assert_eq!(post.send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn without_a_backend_the_answer_is_503() {
    let harness = Harness::start().await;
    harness.route("none.example", "none").await;
    harness.up("dead", nowhere()).await;
    harness.route("dead.example", "dead").await;
    let mut wire = harness.connect().await;
    for host in ["none.example", "dead.example"] {
        let (head, body) = wire.get(host, "/").await;
        assert!(head.starts_with("http/1.1 503"), "{head}");
        assert!(body.contains("not running"), "{body}");
    }
}

#[tokio::test]
async fn a_request_waits_a_little_for_the_successor_of_the_last_backend() {
    let harness = Harness::start().await;
    let (last, next) = (Backend::named("last").await, Backend::named("next").await);
    harness.up("app", last.addr).await;
    harness.route("a.example", "app").await;
    harness.synced(0, harness.discoverd.down("app", last.addr)).await;
    let mut wire = harness.connect().await;
    let waits = wire.get("a.example", "/");
    tokio::pin!(waits);
    timeout(Duration::from_millis(300), &mut waits).await.expect_err("it is not given up");
    harness.up("app", next.addr).await;
    assert_eq!(waits.await.1, "next");
    harness.synced(0, harness.discoverd.down("app", next.addr)).await;
    let begun = Instant::now();
    let (head, _) = harness.connect().await.get("a.example", "/").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert!((3..9).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_request_waits_for_a_process_that_is_busy_and_goes_elsewhere_where_one_is_free() {
    let harness = Harness::start().await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let busy = listener.local_addr().unwrap();
    let mut crowd = Vec::new();
    for _ in 0..2 {
        crowd.push(TcpStream::connect(busy).await.unwrap());
    }
    harness.up("app", busy).await;
    harness.route("a.example", "app").await;
    let browser = harness.browser(&["a.example"]);
    let get = || browser.get(harness.url("a.example", "/")).send();
    let waits = get();
    tokio::pin!(waits);
    timeout(Duration::from_secs(3), &mut waits).await.expect_err("it is not given up");
    let serves = async {
        for _ in 0..2 {
            drop(listener.accept().await.unwrap());
        }
        let mut wire = Wire(listener.accept().await.unwrap().0, Vec::new());
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy").await;
    };
    let (answer, ()) = tokio::join!(waits, serves);
    assert_eq!(answer.unwrap().text().await.unwrap(), "busy");
    for _ in 0..2 {
        crowd.push(TcpStream::connect(busy).await.unwrap());
    }
    harness.up("app", Backend::named("free").await.addr).await;
    for _ in 0..10 {
        let answer = timeout(Duration::from_secs(2), get()).await.expect("it goes elsewhere");
        assert_eq!(answer.unwrap().text().await.unwrap(), "free");
    }
}

/// Answers one request on each connection and hangs up at the next without a word.
async fn hangs_up_at_second(seen: Arc<AtomicUsize>, mut wire: Wire) {
    for round in 0.. {
        let head = wire.head().await;
        if head.is_empty() {
            return;
        }
        seen.fetch_add(1, SeqCst);
        if round == 1 {
            return;
        }
        if head.starts_with("POST") {
            wire.exactly(2).await;
        }
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    }
}

#[tokio::test]
async fn only_what_may_be_repeated_is_sent_again_when_a_kept_connection_breaks() {
    let harness = Harness::start().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let backend = scripted(move |_, wire| hangs_up_at_second(counted.clone(), wire)).await;
    harness.up("app", backend).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    assert_eq!(wire.get("a.example", "/").await.1, "ok");
    assert_eq!(wire.get("a.example", "/").await.1, "ok");
    assert_eq!(seen.load(SeqCst), 3, "the second was sent twice");

    wire.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi").await;
    let (head, _) = wire.answer().await;
    assert!(head.starts_with("http/1.1 502"), "{head}");
    assert_eq!(seen.load(SeqCst), 4, "the POST was sent once");
}

/// Takes connections and answers none of them.
async fn hangs_up(seen: &Arc<AtomicUsize>) -> std::net::SocketAddr {
    let seen = seen.clone();
    let backend = scripted(move |_, mut wire: Wire| {
        let seen = seen.clone();
        async move {
            wire.head().await;
            seen.fetch_add(1, SeqCst);
        }
    });
    backend.await
}

#[tokio::test]
async fn what_asks_for_nothing_to_be_done_goes_elsewhere_when_it_was_lost() {
    let harness = Harness::start().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let silent = hangs_up(&seen).await;
    harness.up("app", silent).await;
    harness.route("a.example", "app").await;
    let browser = harness.browser(&["a.example"]);
    let url = harness.url("a.example", "/");
    assert_eq!(browser.get(&url).send().await.unwrap().status(), 502);
    assert_eq!(seen.load(SeqCst), 2, "without another, the same got it once more");
    assert_eq!(browser.post(&url).send().await.unwrap().status(), 502);
    assert_eq!(browser.delete(&url).send().await.unwrap().status(), 502);
    assert_eq!(seen.load(SeqCst), 4, "what may have been done is not done again");

    harness.up("app", Backend::named("fine").await.addr).await;
    for _ in 0..10 {
        let head = browser.head(&url).send().await.unwrap();
        assert_eq!(head.status(), 200);
        // The one that loses requests is used last, so that this one, which cannot be repeated, does not meet it.
        let post = browser.post(&url).send().await.unwrap();
        assert_eq!(post.text().await.unwrap(), "fine");
    }
    assert_eq!(seen.load(SeqCst), 4);

    // A second address, of which nothing is known yet.
    let other = Arc::new(AtomicUsize::new(0));
    harness.up("app", hangs_up(&other).await).await;
    for _ in 0..20 {
        let answer = browser.get(&url).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "fine");
    }
    assert!(other.load(SeqCst) < 5, "{}", other.load(SeqCst));
}

#[tokio::test]
async fn a_leader_route_leads_to_the_leader() {
    let harness = Harness::start().await;
    let (one, two) = (Backend::named("one").await, Backend::named("two").await);
    harness.up("db", one.addr).await;
    harness.up("db", two.addr).await;
    let mut route = crate::harness::http_route("a.example", "db");
    route.route.leader = Some(true);
    harness.client.create_route(&route).await.unwrap();
    let mut wire = harness.connect().await;
    assert!(wire.get("a.example", "/").await.0.starts_with("http/1.1 503"));
    for (leader, name) in [(&two, "two"), (&one, "one")] {
        harness.synced(0, harness.discoverd.lead("db", leader.addr)).await;
        for _ in 0..10 {
            assert_eq!(wire.get("a.example", "/").await.1, name);
        }
    }
}

#[tokio::test]
async fn a_vanished_backend_is_used_last_until_it_refuses() {
    let harness = Harness::start().await;
    let (one, two) = (Backend::named("one").await, Backend::named("two").await);
    harness.up("app", one.addr).await;
    harness.up("app", two.addr).await;
    harness.route("a.example", "app").await;
    harness.synced(0, harness.discoverd.vanish("app", one.addr)).await;
    let mut wire = harness.connect().await;
    for _ in 0..20 {
        assert_eq!(wire.get("a.example", "/").await.1, "two");
    }
    harness.synced(0, harness.discoverd.down("app", two.addr)).await;
    assert_eq!(wire.get("a.example", "/").await.1, "one");
}

#[tokio::test]
async fn what_is_under_way_to_a_dead_host_is_cut() {
    let harness = Harness::start().await;
    // It takes connections and answers none; then nobody takes one.
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    harness.up("app", addr).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    wire.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi").await;
    let _silent = timeout(testkit::LIMIT, listener.accept()).await.unwrap().unwrap();
    drop(listener);
    harness.synced(0, harness.discoverd.vanish("app", addr)).await;
    let (head, _) = timeout(testkit::LIMIT, wire.answer()).await.unwrap();
    assert!(head.starts_with("http/1.1 502"), "{head}");
}

#[tokio::test]
async fn a_discoverd_that_comes_back_knowing_nothing_stops_no_traffic() {
    let harness = Harness::start().await;
    let backend = Backend::named("fine").await;
    harness.up("app", backend.addr).await;
    harness.route("a.example", "app").await;
    harness.discoverd.forget_all();
    harness.up("other", nowhere()).await;
    assert_eq!(harness.connect().await.get("a.example", "/").await.1, "fine");
}

#[tokio::test]
async fn draining_waits_for_the_last_request_and_cuts_what_does_not_end() {
    let harness = Harness::start().await;
    let release = Arc::new(tokio::sync::Notify::new());
    let (arrived, held) = (Arc::new(tokio::sync::Notify::new()), release.clone());
    let told = arrived.clone();
    let late = async move || {
        told.notify_one();
        held.notified().await;
        "late"
    };
    let backend = Backend::answering(late).await;
    harness.up("app", backend.addr).await;
    harness.route("a.example", "app").await;
    let browser = harness.browser(&["a.example"]);
    let get = || browser.get(harness.url("a.example", "/")).send();
    let drain = |services, timeout_ms| Drain {
        addr: backend.addr.to_string(),
        services,
        timeout_ms,
        keep_open: false,
    };

    let still_there = harness.client.drain(&drain(0, 100)).await.unwrap_err();
    assert!(still_there.to_string().contains("still registered"), "{still_there}");

    let request = async { get().await.unwrap().text().await.unwrap() };
    let withdrawn_then_drained = async {
        arrived.notified().await;
        let services = harness.discoverd.down("app", backend.addr);
        let asked = drain(services, 10_000);
        let mut drained = std::pin::pin!(harness.client.drain(&asked));
        assert!(timeout(Duration::from_millis(300), drained.as_mut()).await.is_err());
        release.notify_one();
        drained.await.unwrap().closed
    };
    let (text, closed) = tokio::join!(request, withdrawn_then_drained);
    assert_eq!((text.as_str(), closed), ("late", 0));

    harness.up("app", backend.addr).await;
    let withdrawn_then_cut = async {
        arrived.notified().await;
        let services = harness.discoverd.down("app", backend.addr);
        harness.client.drain(&drain(services, 200)).await.unwrap().closed
    };
    let (cut, closed) = tokio::join!(get(), withdrawn_then_cut);
    assert_eq!(closed, 1);
    assert_eq!(cut.unwrap().status(), 502);
}

#[tokio::test]
async fn a_revision_that_is_not_there_yet_is_waited_for_and_then_named() {
    let harness = Harness::start().await;
    let sync = api::route::Sync { routes: 1 << 40, services: 0, timeout_ms: 200 };
    let begun = Instant::now();
    let err = harness.client.sync(sync).await.unwrap_err();
    assert!(err.to_string().contains("seen routes"), "{err}");
    assert!(begun.elapsed() >= Duration::from_millis(200));
}

/// What users do while backends come and go.
struct Traffic {
    done: AtomicU32,
    stop: AtomicBool,
}

impl Traffic {
    /// Requests one after the other: GET and POST of 10 KiB, on kept connections or each on a new one.
    async fn run(&self, harness: &Harness, post: bool, fresh: bool) {
        let kept = harness.browser(&["a.example"]);
        while !self.stop.load(SeqCst) {
            let browser = match fresh {
                true => harness.browser_of(
                    &["a.example"],
                    reqwest::Client::builder().pool_max_idle_per_host(0),
                ),
                false => kept.clone(),
            };
            let url = harness.url("a.example", "/");
            let request = match post {
                true => browser.post(url).body(vec![b'x'; 10 << 10]),
                false => browser.get(url),
            };
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.text().await.unwrap(), "fine");
            self.done.fetch_add(1, SeqCst);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_backends_come_and_go() {
    let harness = Harness::start().await;
    let fine = || async { Backend::named("fine").await };
    let mut backend = fine().await;
    harness.up("app", backend.addr).await;
    harness.route("a.example", "app").await;
    let traffic = Traffic { done: AtomicU32::new(0), stop: AtomicBool::new(false) };
    let users = [(false, false), (true, false), (false, true), (true, true)];
    let users = join_all(users.map(|(post, fresh)| traffic.run(&harness, post, fresh)));
    let changes = async {
        let mut rounds = 0;
        while rounds < 20 || traffic.done.load(SeqCst) < 1_000 {
            let next = fine().await;
            harness.up("app", next.addr).await;
            let before = std::mem::replace(&mut backend, next);
            let services = harness.discoverd.down("app", before.addr);
            let drain = Drain {
                addr: before.addr.to_string(),
                services,
                timeout_ms: 10_000,
                keep_open: false,
            };
            assert_eq!(harness.client.drain(&drain).await.unwrap().closed, 0);
            before.stop().await;
            if rounds % 5 == 0 {
                harness.discoverd.cut();
            }
            rounds += 1;
        }
        traffic.stop.store(true, SeqCst);
        rounds
    };
    let (_, rounds) = tokio::join!(users, changes);
    println!("{} requests, {rounds} changes", traffic.done.load(SeqCst));
}

#[tokio::test]
async fn a_router_that_restarts_takes_over_and_a_stopping_one_finishes_what_it_has_begun() {
    let harness = Harness::start().await;
    let arrived = Arc::new(tokio::sync::Notify::new());
    let release = Arc::new(tokio::sync::Notify::new());
    let (told, held) = (arrived.clone(), release.clone());
    let late = async move || {
        told.notify_one();
        held.notified().await;
        "late"
    };
    harness.up("app", Backend::answering(late).await.addr).await;
    harness.route("a.example", "app").await;
    let browser = harness.browser(&["a.example"]);
    let request = async {
        let answer = browser.get(harness.url("a.example", "/")).send().await.unwrap();
        answer.text().await.unwrap()
    };
    let stopped = async {
        arrived.notified().await;
        harness.lifetime.end();
        testkit::wait_until("the port is closed", || async {
            match tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, harness.router.http.port()))
                .await
            {
                Ok(_) => Err("still open"),
                Err(_) => Ok(()),
            }
        })
        .await;
        release.notify_one();
    };
    let (text, ()) = tokio::join!(request, stopped);
    assert_eq!(text, "late");
    harness.lifetime.clone().drain(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn what_the_router_cut_itself_is_not_done_again_elsewhere() {
    let harness = Harness::start().await;
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let backend = scripted(move |_, mut wire: Wire| {
        let tell = tell.clone();
        async move {
            wire.head().await;
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            wire.head().await;
            tell.send(()).await.unwrap();
            wire.until_end().await;
        }
    });
    let backend = backend.await;
    harness.up("app", backend).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    assert_eq!(wire.get("a.example", "/").await.1, "ok");
    wire.send("DELETE / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    told.recv().await.unwrap();
    harness.up("app", Backend::named("other").await.addr).await;
    let services = harness.discoverd.down("app", backend);
    let addr = backend.to_string();
    let drain = Drain { addr, services, timeout_ms: 100, keep_open: false };
    assert_eq!(harness.client.drain(&drain).await.unwrap().closed, 1);
    let (head, _) = wire.answer().await;
    assert!(head.starts_with("http/1.1 502 "), "{head}");
}
