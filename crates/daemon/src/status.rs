//! Whether a daemon can do its work: not only that it runs, but that what it stands on is there for it.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use http::StatusCode;
use serde_json::json;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// Longest time the asking may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(4);
/// What was found out is good for this long: anybody may ask.
const FRESH: Duration = Duration::from_secs(1);

/// What was found out last.
type Found = Arc<Mutex<Option<(Instant, Result<(), String>)>>>;

/// `GET /.well-known/status` of a server that asks what it stands on: 200 and `healthy`, or 500, `unhealthy` and why.
pub fn status<F, Fut>(ask: F) -> MethodRouter
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<(), String>> + Send + 'static,
{
    let found = Found::default();
    get(move || {
        let (asked, found) = (ask(), found.clone());
        async move {
            let mut found = found.lock().await;
            let known = found.take().filter(|(at, _)| at.elapsed() < FRESH);
            let (at, health) = match known {
                Some(known) => known,
                None => {
                    let late = || Err(format!("nothing was found out within {ASK_TIMEOUT:?}"));
                    let health = timeout(ASK_TIMEOUT, asked).await.unwrap_or_else(|_| late());
                    (Instant::now(), health)
                }
            };
            *found = Some((at, health.clone()));
            answer(health)
        }
    })
}

fn answer(health: Result<(), String>) -> Response {
    let version = env!("CARGO_PKG_VERSION");
    match health {
        Ok(()) => {
            Json(json!({ "data": { "status": "healthy", "version": version } })).into_response()
        }
        Err(why) => {
            let data = json!({ "status": "unhealthy", "version": version, "detail": why });
            (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "data": data }))).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::{Router, body::Body, extract::Request};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_a_daemon_stands_on_is_asked_once_a_second_at_most() {
        let asked = Arc::new(AtomicU32::new(0));
        let counted = asked.clone();
        let ask = move || {
            let counted = counted.clone();
            async move {
                match counted.fetch_add(1, Ordering::SeqCst) {
                    0 => Err("the database is away".to_owned()),
                    1 => Ok(()),
                    _ => std::future::pending().await,
                }
            }
        };
        let router = Router::new().route("/", status(ask));
        let get = async || {
            let request = Request::get("/").body(Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            let code = answer.status().as_u16();
            let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await.unwrap();
            (code, String::from_utf8(body.to_vec()).unwrap())
        };
        for _ in 0..2 {
            let (code, body) = get().await;
            assert!(code == 500 && body.contains("unhealthy"), "{code} {body}");
            assert!(body.contains("the database is away"), "{body}");
        }
        tokio::time::advance(FRESH).await;
        assert_eq!(get().await.0, 200);
        tokio::time::advance(FRESH).await;
        let (code, body) = get().await;
        assert!(code == 500 && body.contains("within 4s"), "{code} {body}");
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }
}
