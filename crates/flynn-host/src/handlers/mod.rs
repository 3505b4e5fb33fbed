//! One file a resource.

pub(crate) mod attach;
pub(crate) mod cluster;
pub(crate) mod host;
pub(crate) mod hosts;
pub(crate) mod images;
pub(crate) mod jobs;
pub(crate) mod log;
pub(crate) mod volumes;

use api::{discoverd::Term, host::TERM_HEADER, id::JobId};
use daemon::ApiError;
use http::HeaderMap;

use crate::{error::of_term, host::Host};

fn job_id(text: &str) -> Result<JobId, ApiError> {
    text.parse().map_err(|err| ApiError::invalid("id", err))
}

/// The term under which an order is given, if it says.
fn term(headers: &HeaderMap) -> Result<Option<Term>, ApiError> {
    let Some(value) = headers.get(TERM_HEADER) else { return Ok(None) };
    let term = value.to_str().ok().and_then(Term::from_header);
    term.ok_or_else(|| ApiError::invalid(TERM_HEADER, "is not `epoch.revision`")).map(Some)
}

/// Obeys the term of whoever gives an order, or refuses the order.
fn obey(host: &Host, headers: &HeaderMap) -> Result<(), ApiError> {
    term(headers)?.map_or(Ok(()), |term| host.terms.obey(term).map_err(of_term))
}
