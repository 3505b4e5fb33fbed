//! Where the API's parts are joined.

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    Router, middleware,
    routing::{get, post},
};
use daemon::{Lifetime, auth};
use tokio::net::TcpListener;

use crate::{config::ApiConfig, handlers, store::Databases};

/// The API, listening.
#[derive(Debug)]
pub struct Running {
    /// Where.
    pub addr: SocketAddr,
}

/// Starts the API. The database server need not be there yet.
pub async fn start(config: &ApiConfig, lifetime: &Lifetime) -> io::Result<Running> {
    let listener = TcpListener::bind(("0.0.0.0", config.port)).await?;
    let addr = listener.local_addr()?;
    let databases = Databases::new(config, lifetime);
    let (measured, most) = (databases.clone(), config.database_len_max);
    let every = Duration::from_secs(config.measure_seconds);
    lifetime.spawn("quota", move |stop| measured.keep_quota(most, every, stop));
    let keys = auth::Keys::parse(&config.key);
    let router = Router::new()
        .route("/databases", post(handlers::create_database).delete(handlers::delete_database))
        .layer(middleware::from_fn_with_state(keys, auth::require))
        .with_state(handlers::Work { databases: databases.clone(), lifetime: lifetime.clone() });
    let ping = get(handlers::ping).with_state(databases.clone());
    let status = daemon::status::status(move || handlers::health(databases.clone()));
    lifetime.serve_with_ping(listener, router, ping, status);
    Ok(Running { addr })
}
