//! Handlers, a file a resource.

pub(crate) mod instances;
pub(crate) mod leader;
pub(crate) mod meta;
pub(crate) mod services;

use crate::domain::name::{InvalidName, ServiceName};

/// The service a read names, by its present or an old name.
fn reading(service: &str) -> Result<ServiceName, crate::error::Failure> {
    ServiceName::parse_alias(service).map_err(InvalidName::into)
}

/// The service a write names.
fn writing(service: &str) -> Result<ServiceName, crate::error::Failure> {
    ServiceName::parse(service).map_err(InvalidName::into)
}
