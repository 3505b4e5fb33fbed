//! Method and path to handler.

use axum::{Router, middleware, routing::get};

use crate::{
    access::{self, Guard},
    handlers::blobs,
    store::Store,
};

pub(crate) fn routes(store: Store, guard: Guard) -> Router {
    let blob = get(blobs::get).put(blobs::put).delete(blobs::delete);
    Router::new()
        .route("/", get(blobs::list))
        .route("/{*path}", blob)
        .layer(middleware::from_fn_with_state(guard, access::require))
        .with_state(store)
}
