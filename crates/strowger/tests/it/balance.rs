//! Which backend is chosen, and which is left out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};

use axum::http::StatusCode;
use tokio::{net::TcpStream, sync::watch};

use crate::harness::{Backend, Harness, Wire, scripted, spawn};

/// A backend that answers with a status, and counts.
async fn answering(status: StatusCode) -> (Backend, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let backend = Backend::answering(async move || {
        counted.fetch_add(1, SeqCst);
        status
    });
    (backend.await, seen)
}

#[tokio::test]
async fn one_that_only_says_that_it_cannot_answer_is_left_out_and_one_with_faults_of_its_own_not() {
    for (status, is_left_out) in [
        (StatusCode::SERVICE_UNAVAILABLE, true),
        (StatusCode::BAD_GATEWAY, true),
        (StatusCode::INTERNAL_SERVER_ERROR, false),
        (StatusCode::NOT_FOUND, false),
    ] {
        let harness = Harness::start().await;
        let (bad, seen) = answering(status).await;
        harness.up("app", bad.addr).await;
        harness.route("a.example", "app").await;
        let mut wire = harness.connect().await;
        for _ in 0..9 {
            wire.get("a.example", "/").await;
        }
        harness.up("app", Backend::named("fine").await.addr).await;
        let before = seen.load(SeqCst);
        let (head, _) = wire.get("a.example", "/").await;
        let text = crate::metrics::metrics(&harness).await;
        let out = text.contains(r#"strowger_backends{service="app",standing="last"} 1"#);
        assert_eq!(out, is_left_out, "{status}: {text}");
        if is_left_out {
            assert!(head.starts_with("http/1.1 200") && seen.load(SeqCst) == before, "{head}");
        }
    }
}

#[tokio::test]
async fn one_that_was_left_out_is_tried_by_one_request_and_comes_back() {
    let harness = Harness::start().await;
    let is_bad = Arc::new(AtomicBool::new(true));
    let told = is_bad.clone();
    let flaky = scripted(move |_, mut wire: Wire| {
        let is_bad = told.clone();
        async move {
            while !wire.head().await.is_empty() && !is_bad.load(SeqCst) {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback").await;
            }
        }
    });
    harness.up("app", flaky.await).await;
    harness.up("app", Backend::named("fine").await.addr).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    for _ in 0..50 {
        assert_eq!(wire.get("a.example", "/").await.1, "fine");
    }
    is_bad.store(false, SeqCst);
    let browser = harness.browser(&["a.example"]);
    testkit::wait_until("it is back", || async {
        let answer = browser.get(harness.url("a.example", "/")).send().await.unwrap();
        let text = answer.text().await.unwrap();
        if text == "back" { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_asks_one_thing_after_the_other_gets_to_all() {
    let harness = Harness::start().await;
    let (one, of_one) = answering(StatusCode::OK).await;
    let (other, of_other) = answering(StatusCode::OK).await;
    harness.up("app", one.addr).await;
    harness.up("app", other.addr).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    for _ in 0..200 {
        wire.get("a.example", "/").await;
    }
    // By chance 40 would be 8.5 standard deviations away; a machine that stalls may make one of them slow for a while.
    let seen = (of_one.load(SeqCst), of_other.load(SeqCst));
    assert!(seen.0.min(seen.1) > 40, "{seen:?}");
}

#[tokio::test]
async fn a_slow_one_gets_less() {
    let harness = Harness::start().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let answered = Arc::new(watch::Sender::new(0));
    let (counted, of_fast) = (seen.clone(), answered.clone());
    let fast = Backend::answering(async move || of_fast.send_modify(|count| *count += 1)).await;
    // An answer of the slow one takes as long as a hundred of the fast one to somebody who asks that directly.
    let slow = Backend::answering(async move || {
        counted.fetch_add(1, SeqCst);
        let mut answered = answered.subscribe();
        let until = *answered.borrow() + 100;
        let _ = answered.wait_for(|count| *count >= until).await;
    });
    harness.up("app", slow.await.addr).await;
    harness.up("app", fast.addr).await;
    let mut direct = Wire(TcpStream::connect(fast.addr).await.unwrap(), Vec::new());
    spawn(async move { while direct.get("a.example", "/").await.0.starts_with("http/1.1 200") {} });
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    for _ in 0..100 {
        wire.get("a.example", "/").await;
    }
    let count = seen.load(SeqCst);
    assert!(count < 10, "{count} of 100 went to the slow one");
}

#[tokio::test]
async fn where_everything_is_lost_little_is_sent_twice() {
    let harness = Harness::start().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let losing = scripted(move |_, mut wire: Wire| {
        let seen = counted.clone();
        async move {
            wire.head().await;
            seen.fetch_add(1, SeqCst);
        }
    });
    harness.up("app", losing.await).await;
    harness.route("a.example", "app").await;
    let mut wire = harness.connect().await;
    let (begun, asked) = (Instant::now(), 600);
    for _ in 0..asked {
        let (head, _) = wire.get("a.example", "/").await;
        assert!(head.starts_with("http/1.1 502"), "{head}");
    }
    // A fifth, and ten a second, where those of ten seconds may come at once.
    let (sent, took) = (seen.load(SeqCst), begun.elapsed().as_secs() as usize);
    let limit = asked + asked / 5 + 10 * (took + 11);
    assert!((asked + 100..=limit).contains(&sent), "{sent} were sent for {asked} in {took} s");
}
