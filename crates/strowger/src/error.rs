//! How errors are answered.

use api::error::ErrorCode;
use daemon::ApiError;

use crate::{
    backend::Registered, domain::route::Invalid, store::StoreError, tls::CertificateError,
};

/// Why a call of the API fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is no route.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Its certificate is none.
    #[error("tls_cert {0}")]
    Certificate(#[from] CertificateError),
    /// It was not changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The port is taken.
    #[error("port {0} is used by something else on the router's host; choose another one")]
    PortInUse(u16),
    /// All are taken.
    #[error("every port from {} to {} has a route", .0.start(), .0.end())]
    NoPort(std::ops::RangeInclusive<u16>),
    /// Not seen in time.
    #[error("this router has seen {what} up to revision {}, not {asked}", seen.unwrap_or(0))]
    NotSeen {
        /// Routes or services.
        what: &'static str,
        /// The newest.
        seen: Option<u64>,
        /// The one asked for.
        asked: u64,
    },
    /// This router has the route and not its port.
    #[error("port {0} is used by something else on this router's host")]
    Unbound(u16),
    /// Cannot be drained.
    #[error(transparent)]
    Registered(#[from] Registered),
    /// The router before this one does not do it.
    #[error("the router before this one, which is still there: {0}")]
    Predecessor(String),
    /// No address.
    #[error("addr must be ip:port, not {0}")]
    Addr(String),
}

impl From<Error> for ApiError {
    fn from(err: Error) -> Self {
        let message = err.to_string();
        match err {
            Error::Invalid(err) => Self::invalid(err.field, err.problem),
            Error::Certificate(err) => Self::invalid("tls_cert", err),
            Error::Addr(_) => Self::new(ErrorCode::ValidationError, message),
            Error::PortInUse(_) | Error::NoPort(_) => Self::new(ErrorCode::Conflict, message),
            Error::NotSeen { .. }
            | Error::Unbound(_)
            | Error::Registered(_)
            | Error::Predecessor(_) => Self::unavailable(message),
            Error::Store(err) => match err {
                StoreError::Exists(_) | StoreError::Foreign(_) => {
                    Self::new(ErrorCode::ObjectExists, message)
                }
                StoreError::Missing(_) => Self::not_found(message),
                StoreError::Contended(_) => Self::unavailable(message),
                StoreError::Etcd(err) if err.is_unavailable() => Self::unavailable(
                    "etcd, which holds the routes, does not answer; what is served stays as it is",
                ),
                other => Self::internal("changing a route", &other),
            },
        }
    }
}
