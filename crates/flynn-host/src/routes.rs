//! Paths.

use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{get, post, put},
};
use daemon::auth::{self, Keys};

use crate::{
    cluster::Leadership,
    handlers::{attach, cluster, host, jobs, log},
    host::Host,
};

/// What handlers reach.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) host: Arc<Host>,
    pub(crate) leadership: Arc<Leadership>,
}

/// Every path needs the key.
pub(crate) fn router(app: App, key: &str) -> Router {
    Router::new()
        .route("/host/jobs", get(jobs::list))
        .route("/host/jobs/{id}", get(jobs::one).put(jobs::put).delete(jobs::stop))
        .route("/host/jobs/{id}/signal/{signal}", put(jobs::signal))
        .route("/host/jobs/{id}/log", get(log::log))
        .route("/attach", post(attach::attach))
        .route("/host/status", get(host::status))
        .route("/host/addresses", get(host::addresses))
        .route("/host/tags", post(host::tags))
        .route("/cluster/state", get(cluster::state))
        .route("/cluster/commit", post(cluster::commit))
        .layer(middleware::from_fn_with_state(Keys::parse(key), auth::require))
        .with_state(app)
}
