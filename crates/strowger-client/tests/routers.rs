//! All registered routers are asked, and only those.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use api::route::{Drain, Drained, Sync};
use api_client::Endpoint;
use axum::{Json, Router, http::StatusCode, routing::get};
use strowger_client::Routers;
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, timeout},
};

/// A router that confirms from the `ready`th time on.
#[expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the server of a test ends with its runtime"
)]
async fn router(ready: u32) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU32::new(0));
    let app = Router::new()
        .route(
            "/sync",
            get(async move || match asked.fetch_add(1, SeqCst) + 1 >= ready {
                true => StatusCode::OK,
                false => StatusCode::SERVICE_UNAVAILABLE,
            }),
        )
        .route("/drain", get(async || Json(Drained { closed: 2, open: 1 })));
    tokio::spawn(axum::serve(listener, app).into_future());
    base
}

fn endpoint(bases: Vec<String>) -> (watch::Sender<Arc<[String]>>, Endpoint) {
    let (sender, bases) = watch::channel(Arc::from(bases));
    (sender, Endpoint::Watched { service: "strowger-api".into(), bases })
}

#[tokio::test]
async fn no_router_means_nothing_to_wait_for() {
    let (_sender, endpoint) = endpoint(vec![]);
    Routers::new(endpoint, None).sync(Sync { timeout_ms: 9, ..Sync::default() }).await.unwrap();
}

#[tokio::test]
async fn while_it_is_not_known_which_routers_there_are_none_has_confirmed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    let watch = discoverd_client::Discoverd::new(&silent, None).watch("strowger-api");
    let sync = Sync { timeout_ms: 100, ..Sync::default() };
    let err = Routers::registered(watch, None).sync(sync).await.unwrap_err();
    assert!(err.routers.is_empty() && err.to_string().contains("which routers"), "{err}");
}

#[tokio::test]
async fn a_router_that_is_not_ready_is_asked_again() {
    let (_sender, endpoint) = endpoint(vec![router(3).await, router(1).await]);
    let routers = Routers::new(endpoint, None);
    routers.sync(Sync { timeout_ms: 9_000, ..Sync::default() }).await.unwrap();
    let drain = Drain { addr: "[::1]:80".into(), services: 1, timeout_ms: 9_000, keep_open: false };
    assert_eq!(routers.drain(drain).await.unwrap().closed, 4);
}

#[tokio::test]
async fn the_router_that_does_not_confirm_is_named() {
    let (silent, ready) = (router(u32::MAX).await, router(1).await);
    let (_sender, endpoint) = endpoint(vec![silent.clone(), ready]);
    let sync = Sync { timeout_ms: 300, ..Sync::default() };
    let err = Routers::new(endpoint, None).sync(sync).await.unwrap_err();
    assert_eq!(err.routers, [silent]);
}

#[tokio::test]
async fn a_router_that_is_withdrawn_need_not_confirm() {
    let (silent, ready) = (router(u32::MAX).await, router(1).await);
    let (sender, endpoint) = endpoint(vec![silent, ready.clone()]);
    let routers = Routers::new(endpoint, None);
    let begun = Instant::now();
    let sync = routers.sync(Sync { timeout_ms: 20_000, ..Sync::default() });
    tokio::pin!(sync);
    assert!(timeout(Duration::from_millis(200), sync.as_mut()).await.is_err());
    sender.send_replace([ready].into());
    sync.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
}
