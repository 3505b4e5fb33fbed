//! Errors of this daemon, and how each becomes HTTP.

use api::error::ErrorCode;
use axum::response::{IntoResponse, Response};
use daemon::ApiError;
use http::StatusCode;

use crate::neighbours::{Effect, Failure};

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// There is no such object.
    #[error("there is no {what} {name}")]
    Missing {
        /// Kind of object.
        what: &'static str,
        /// What was asked for.
        name: String,
    },
    /// A field has a value that cannot be used.
    #[error("{field} {message}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// An object of that name or id exists.
    #[error("{0}")]
    Exists(String),
    /// The request contradicts the present state.
    #[error("{0}")]
    Conflict(String),
    /// The body has not the form it must have.
    #[error("{0}")]
    Malformed(String),
    /// Too much is asked at once.
    #[error("{0}")]
    Busy(String),
    /// Something this needs is away.
    #[error("{0}")]
    Away(String),
    /// A neighbour refused.
    #[error("{doing} failed")]
    Neighbour {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        #[source]
        source: api_client::Error,
    },
    /// A provider did not do what it was asked.
    #[error("{message}")]
    Provider {
        /// Which, and what is wrong.
        message: String,
        /// What that means.
        failure: Failure,
        /// What it said.
        #[source]
        source: Option<api_client::Error>,
    },
    /// shelf refused.
    #[error("asking shelf failed")]
    Shelf(#[source] shelf_client::Error),
    /// The database did not do it.
    #[error(transparent)]
    Db(#[from] pg::Error),
}

/// Shorthand of this daemon.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// There is no such object.
    pub(crate) fn missing(what: &'static str, name: impl std::fmt::Display) -> Self {
        Self::Missing { what, name: name.to_string() }
    }

    /// A field has a value that cannot be used.
    pub(crate) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }

    /// What a provider did that failed. What is no failure of a provider tells nothing of it.
    pub(crate) fn effect(&self) -> Effect {
        match self {
            Self::Provider { failure, .. } => failure.effect,
            _ => Effect::Unknown,
        }
    }

    /// Whether a request to a provider is over, although it failed.
    pub(crate) fn is_answered(&self) -> bool {
        matches!(self, Self::Provider { failure, .. } if failure.is_over)
    }

    /// A neighbour refused, or could not be asked.
    pub(crate) fn neighbour(doing: &'static str) -> impl Fn(api_client::Error) -> Self {
        move |source| Self::Neighbour { doing, source }
    }
}

impl From<Error> for ApiError {
    fn from(err: Error) -> Self {
        let message = err.to_string();
        match err {
            Error::Missing { .. } => Self::not_found(message),
            Error::Invalid { field, message } => Self::invalid(field, message),
            Error::Exists(_) => Self::new(ErrorCode::ObjectExists, message),
            Error::Conflict(_) => Self::new(ErrorCode::Conflict, message),
            Error::Malformed(_) => Self::new(ErrorCode::ValidationError, message),
            Error::Busy(_) => Self::new(ErrorCode::Ratelimited, message),
            Error::Away(_) => Self::unavailable(message),
            Error::Neighbour { doing, source } => of_neighbour(doing, &source),
            Error::Provider { failure, source, .. } => {
                of_provider(message, &failure, source.as_ref())
            }
            Error::Shelf(shelf_client::Error::Http(source)) => {
                of_neighbour("asking shelf", &source)
            }
            Error::Shelf(source) => {
                tracing::warn!(error = &source as &dyn std::error::Error, "shelf did not do it");
                Self::unavailable(format!("asking shelf failed: {source}; try again"))
            }
            Error::Db(err) if err.is_unavailable() => {
                tracing::warn!(error = &err as &dyn std::error::Error, "a request had no database");
                Self::unavailable("the database is not available at the moment; try again")
            }
            Error::Db(err) if err.is_input() => {
                let message = "the request holds a value that cannot be stored: a NUL character, a number out of range, or a \
                               name that is too long";
                Self::new(ErrorCode::ValidationError, message)
            }
            Error::Db(err) => Self::internal("asking the database", &err),
        }
    }
}

/// What a neighbour says of the request is the requester's business; that it could not be asked is passing.
fn of_neighbour(doing: &str, source: &api_client::Error) -> ApiError {
    match source {
        api_client::Error::Api { body, .. } if body.code != ErrorCode::Unauthorized => {
            let mut error = ApiError::new(body.code, format!("{doing} failed: {}", body.message));
            error.0.detail.clone_from(&body.detail);
            error
        }
        err if err.is_retryable() => {
            tracing::warn!(error = err as &dyn std::error::Error, "{doing} failed");
            ApiError::unavailable(format!("{doing} failed: {err}; try again"))
        }
        err => ApiError::internal(doing, err),
    }
}

/// What a provider does is not this daemon's failure, and its operator is told here why it did not do it.
fn of_provider(message: String, failure: &Failure, source: Option<&api_client::Error>) -> ApiError {
    let cause = source.map(|err| err as &(dyn std::error::Error + 'static));
    tracing::warn!(error = cause, "{message}");
    let mut error = ApiError::new(failure.code, message);
    error.0.retry = failure.retry;
    if let Some(api_client::Error::Api { body, .. }) = source {
        error.0.detail.clone_from(&body.detail);
    }
    error
}

impl IntoResponse for Error {
    /// What is not there is told as the original clients expect it of the controller: 404 with a sentence as plain text.
    /// JSON would be some error to them, and not the one that means "there is none".
    fn into_response(self) -> Response {
        let error = ApiError::from(self);
        match error.0.code {
            ErrorCode::NotFound | ErrorCode::ObjectNotFound => {
                (StatusCode::NOT_FOUND, error.0.message).into_response()
            }
            _ => error.into_response(),
        }
    }
}
