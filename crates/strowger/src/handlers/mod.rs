//! One file a resource.

pub(crate) mod events;
pub(crate) mod metrics;
pub(crate) mod routes;
pub(crate) mod wait;
