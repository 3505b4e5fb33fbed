//! The API.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
};
use daemon::auth::{self, Keys};
use tokio_util::sync::CancellationToken;

use crate::{
    handlers::{events, metrics, routes, wait},
    handover::Predecessor,
    live::Live,
    store::Routes,
};

/// A route with its certificates is smaller.
const BODY_LIMIT: usize = 1 << 20;

/// What handlers work with.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// The routes in etcd.
    pub(crate) routes: Routes,
    /// The routes served.
    pub(crate) live: Arc<Live>,
    /// Ports no tcp route may have: the router's own and those of the layer below.
    pub(crate) reserved: Arc<[u16]>,
    /// The router before this one, while it is there.
    pub(crate) predecessor: Option<Arc<Predecessor>>,
    /// Is cancelled when the daemon stops.
    pub(crate) stop: CancellationToken,
}

/// Method and path to handler.
pub(crate) fn router(api: Api, keys: Keys) -> Router {
    Router::new()
        .route("/routes", post(routes::create).put(routes::replace).get(routes::list))
        .route(
            "/routes/{kind}/{id}",
            get(routes::show).put(routes::replace_one).delete(routes::remove),
        )
        .route("/events", get(events::follow))
        .route("/metrics", get(metrics::show))
        .route("/sync", get(wait::sync))
        .route("/drain", get(wait::drain))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(keys, auth::require))
        .with_state(api)
}
