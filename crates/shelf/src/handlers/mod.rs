//! Handlers, a file a resource.

pub(crate) mod blobs;
