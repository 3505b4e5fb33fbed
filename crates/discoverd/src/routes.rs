//! Which request goes where.

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::HeaderValue,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use daemon::{ApiError, auth};
use tokio_util::sync::CancellationToken;

use crate::{
    error::Failure,
    handlers::{instances, leader, meta, services},
    mirror::{Freshness, Mirror},
    registrar::Registrar,
    relay::{self, Listings},
    store::Store,
};

/// Largest body: an instance with its meta, or a service's meta.
const BODY_LIMIT: usize = 256 << 10;

/// What handlers work with.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) mirror: Mirror,
    pub(crate) registrar: Registrar,
    pub(crate) store: Store,
    pub(crate) listings: Listings,
    pub(crate) stop: CancellationToken,
}

pub(crate) fn router(app: App, keys: auth::Keys) -> Router {
    let open = Router::new()
        .route("/services", get(services::list))
        .route("/services/{service}", get(services::watch))
        .route("/services/{service}/instances", get(instances::list))
        .route("/services/{service}/leader", get(leader::show))
        .route("/services/{service}/meta", get(meta::show))
        .route("/instances", get(instances::list_all))
        .route_layer(middleware::from_fn_with_state(app.mirror.clone(), say_how_fresh));
    let keyed = Router::new()
        .route("/services/{service}", put(services::create).delete(services::remove))
        .route(
            "/services/{service}/instances/{id}",
            put(instances::register).delete(instances::withdraw),
        )
        .route("/services/{service}/leader", put(leader::choose))
        .route("/services/{service}/meta", put(meta::set))
        // Nobody else shall take the places of those who follow.
        .route(relay::PATH, get(services::facts))
        .route_layer(DefaultBodyLimit::max(BODY_LIMIT))
        .route_layer(middleware::from_fn_with_state(keys, auth::require));
    open.merge(keyed).with_state(app)
}

/// Answers nothing as long as nothing is known, and says so when the answer may be old.
async fn say_how_fresh(State(mirror): State<Mirror>, request: Request, next: Next) -> Response {
    let freshness = mirror.freshness();
    if freshness == Freshness::Unknown {
        return ApiError::from(Failure::EtcdAway).into_response();
    }
    let index = HeaderValue::from(mirror.read(|directory| directory.revision()));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if freshness == Freshness::Stale {
        headers.insert("discoverd-stale", HeaderValue::from_static("true"));
    }
    // Original servers send the first name, original clients read the second.
    headers.insert("discoverd-index", index.clone());
    headers.insert("discoverd-current-index", index);
    response
}
