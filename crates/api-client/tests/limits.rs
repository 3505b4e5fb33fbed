//! Servers that say too much, or something else.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use api_client::{Client, Error};
use axum::{
    Router,
    body::Body,
    http::StatusCode,
    response::IntoResponse,
    routing::{any, get},
};
use daemon::Lifetime;
use futures_util::stream;
use reqwest::Method;
use tokio::net::TcpListener;

/// What is said on and on.
fn endless() -> Body {
    Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>("x".repeat(1000))))
}

/// Says that it speaks another protocol from here on.
async fn switch() -> impl IntoResponse {
    (StatusCode::SWITCHING_PROTOCOLS, [("connection", "Upgrade"), ("upgrade", "other/0")])
}

async fn server(lifetime: &Lifetime) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .route("/long", get(async || endless()))
        .route("/short", get(async || "\"short\""))
        .route("/switch", any(switch))
        .route("/error", get(async || (StatusCode::CONFLICT, endless()).into_response()));
    lifetime.serve(listener, router);
    Client::new(url.as_str(), None)
}

#[tokio::test]
async fn an_answer_is_read_up_to_its_limit() {
    let lifetime = Lifetime::default();
    let client = server(&lifetime).await.with_answer_limit(10_000);
    assert_eq!(client.get::<String>("/short").await.unwrap(), "short");
    let err = client.get::<String>("/long").await.unwrap_err();
    assert!(matches!(err, Error::TooLong { limit: 10_000, .. }), "{err:?}");
    assert!(err.to_string().contains("too long (more than 10000 bytes)"), "{err}");
}

#[tokio::test]
async fn an_error_that_does_not_end_is_one_all_the_same() {
    let lifetime = Lifetime::default();
    let client = server(&lifetime).await;
    let asked = tokio::time::timeout(testkit::LIMIT, client.get::<String>("/error"));
    let err = asked.await.unwrap().unwrap_err();
    assert!(err.is_conflict(), "{err:?}");
    assert_eq!(err.to_string(), "x".repeat(300));
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_no_success() {
    let lifetime = Lifetime::default();
    let client = server(&lifetime).await;
    let none = |request| request;
    for method in [Method::DELETE, Method::GET, Method::POST] {
        let err = client.send(method, "/switch", none).await.unwrap_err();
        assert!(matches!(err, Error::Api { status: 101, .. }), "{err:?}");
    }
    client.delete::<()>("/switch").await.unwrap_err();
    client.upgrade(Method::POST, "/switch", "other/0", &()).await.unwrap();
    let err = client.upgrade(Method::GET, "/short", "other/0", &()).await.unwrap_err();
    assert!(matches!(err, Error::NotUpgraded { status: 200, .. }), "{err:?}");
}
