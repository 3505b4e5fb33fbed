//! Paths.

use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{delete, get, post, put},
};
use daemon::auth::{self, Keys};
use keyspace::Keyspace;

use crate::{
    cluster::Leadership,
    handlers::{attach, cluster, host, hosts, images, jobs, log, volumes},
    host::Host,
    neighbours::Neighbours,
};

/// What handlers reach.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) host: Arc<Host>,
    pub(crate) leadership: Arc<Leadership>,
    /// The other hosts, unless this one is alone.
    pub(crate) neighbours: Option<Arc<Neighbours>>,
    pub(crate) etcd: Keyspace,
    pub(crate) alone: Alone,
}

/// The ports of a host that is alone and may become one of several.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Alone {
    pub(crate) tunnel_port: u16,
    pub(crate) etcd_peer_port: u16,
}

/// Every path needs the key.
pub(crate) fn router(app: App, key: &str) -> Router {
    Router::new()
        .route("/host/jobs", get(jobs::list))
        .route("/host/jobs/{id}", get(jobs::one).put(jobs::put).delete(jobs::stop))
        .route("/host/jobs/{id}/signal/{signal}", put(jobs::signal))
        .route("/host/jobs/{id}/log", get(log::log))
        .route("/host/images/{*name}", get(images::image))
        .route("/host/volumes", get(volumes::list))
        .route("/host/volumes/{name}", delete(volumes::remove))
        .route("/attach", post(attach::attach))
        .route("/host/status", get(host::status))
        .route("/host/addresses", get(host::addresses))
        .route("/host/tags", post(host::tags))
        .route("/cluster/invites", post(host::invite))
        .route("/cluster/recover", post(hosts::recover))
        .route("/cluster/recovered/{host}", put(hosts::follow))
        .route("/cluster/hosts", get(hosts::list))
        .route("/cluster/hosts/{id}", delete(hosts::remove))
        .route("/cluster/state", get(cluster::state))
        .route("/cluster/commit", post(cluster::commit))
        .layer(middleware::from_fn_with_state(Keys::parse(key), auth::require))
        .with_state(app)
}
