//! The order of a stop, as a router and the process see it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use api::{
    discoverd::Instance,
    host::Status,
    route::{Drain, Drained},
};
use axum::{Json, Router, extract::Query, routing::get};
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{Fixture, ended, is, meta, shell_with};

/// A router with one websocket open to everything.
async fn router(drains: Arc<Mutex<Vec<Drain>>>, lifetime: &daemon::Lifetime) -> String {
    let drain = async move |Query(drain): Query<Drain>| {
        let open = u32::from(drain.keep_open);
        drains.lock().unwrap().push(drain);
        Json(Drained { closed: 1 - open, open })
    };
    let sync = async |Query(_): Query<BTreeMap<String, String>>| Json(json!({}));
    let router = Router::new().route("/drain", get(drain)).route("/sync", get(sync));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    lifetime.serve(listener, router);
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_told_while_its_websockets_are_open_and_they_are_closed_after_it() {
    let host = Fixture::start().await;
    let drains: Arc<Mutex<Vec<Drain>>> = Arc::default();
    let lifetime = daemon::Lifetime::default();
    let addr = router(drains.clone(), &lifetime).await;
    host.discoverd.put("strowger-api", Instance::new("http", &addr, meta(&[])));
    let port =
        json!({ "port": 8080, "service": { "name": "demo-web", "check": { "type": "tcp" } } });
    let line = "trap 'echo told; kill $!; exit 0' TERM; httpd -f -p $PORT -h /www & wait";
    let job = shell_with(line, json!({ "ports": [port], "stop_timeout_seconds": 30 }));
    host.run(&job, is(Status::Running)).await;
    host.client().stop_job(job.id).await.unwrap();
    let done = host.wait(job.id, ended).await;
    assert_eq!((done.status, done.exit_status), (Status::Done, Some(0)));
    let drains = drains.lock().unwrap().clone();
    let asked: Vec<_> = drains.iter().map(|drain| (drain.keep_open, drain.timeout_ms)).collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
    // Requests delay it by ten seconds at most, whatever its stop timeout.
    assert!(asked[0].0 && (9_000..=10_000).contains(&asked[0].1), "{asked:?}");
    assert_eq!(asked[1], (false, 0));
    let log = host.log(job.id, None, true).await;
    assert_eq!(log.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>(), ["told"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_has_just_begun_is_told_when_it_can_hear_it() {
    let host = Fixture::start().await;
    let line = "sleep 2; trap 'exit 7' TERM; while :; do sleep 0.1; done";
    let job = shell_with(line, json!({ "stop_timeout_seconds": 600 }));
    host.run(&job, is(Status::Running)).await;
    host.client().stop_job(job.id).await.unwrap();
    let done = host.wait(job.id, ended).await;
    assert_eq!((done.status, done.exit_status), (Status::Done, Some(7)));
}
