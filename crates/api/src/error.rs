//! The wire form of an error, the same for every service.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of failure it was. Clients match on this, never on the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// There is no such path or object (controller).
    NotFound,
    /// There is no such object (discoverd).
    ObjectNotFound,
    /// An object of that name or id exists already.
    ObjectExists,
    /// The request contradicts the present state.
    Conflict,
    /// A condition the request named does not hold.
    PreconditionFailed,
    /// The body could not be parsed.
    SyntaxError,
    /// A field has a value that cannot be used.
    ValidationError,
    /// The body is larger than the endpoint takes.
    RequestBodyTooBig,
    /// The key is missing or wrong.
    Unauthorized,
    /// Too much is asked at once; try again later.
    Ratelimited,
    /// Something this service needs is away; try again.
    ServiceUnavailable,
    /// Anything else; the service's log says more.
    #[serde(other)]
    UnknownError,
}

impl ErrorCode {
    /// The HTTP status that goes with the code.
    pub fn status(self) -> u16 {
        match self {
            Self::NotFound | Self::ObjectNotFound => 404,
            Self::ObjectExists | Self::Conflict => 409,
            Self::PreconditionFailed => 412,
            Self::SyntaxError | Self::ValidationError | Self::RequestBodyTooBig => 400,
            Self::Unauthorized => 401,
            Self::Ratelimited => 429,
            Self::ServiceUnavailable => 503,
            Self::UnknownError => 500,
        }
    }

    /// The code a bare status stands for, when a body does not say.
    pub fn of_status(status: u16) -> Self {
        match status {
            400 => Self::ValidationError,
            401 | 403 => Self::Unauthorized,
            404 => Self::NotFound,
            409 => Self::Conflict,
            412 => Self::PreconditionFailed,
            413 => Self::RequestBodyTooBig,
            429 => Self::Ratelimited,
            502..=504 => Self::ServiceUnavailable,
            _ => Self::UnknownError,
        }
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The kind.
    pub code: ErrorCode,
    /// A sentence for a person: what went wrong and what to do.
    pub message: String,
    /// More, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retry: bool,
}

impl fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
