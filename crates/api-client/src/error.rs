use api::error::{ErrorBody, ErrorCode};
use reqwest::{Response, StatusCode};

use crate::body;

/// Why a request did not get its answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody offers the service at the moment.
    #[error("no instance of {service} is known")]
    NoInstance {
        /// The service.
        service: String,
    },
    /// No connection could be made.
    #[error("{url} could not be reached")]
    Connect {
        /// Where to.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The connection was lost or no answer came in time: whether the request was carried out is not known.
    #[error("the connection to {url} was lost before its answer was complete")]
    Lost {
        /// Where to.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The service answered with an error.
    #[error("{body}")]
    Api {
        /// HTTP status.
        status: u16,
        /// What it said.
        body: ErrorBody,
    },
    /// The answer is not of the expected form.
    #[error("the answer of {url} could not be understood")]
    Decode {
        /// Where from.
        url: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is longer than what is read of one: whether the request was carried out is not known.
    #[error("the answer of {url} is too long (more than {limit} bytes)")]
    TooLong {
        /// Where from.
        url: String,
        /// Bytes that would have been read.
        limit: usize,
    },
    /// The service did not upgrade the connection.
    #[error("{url} answered {status} instead of upgrading the connection")]
    NotUpgraded {
        /// Where from.
        url: String,
        /// What it answered.
        status: u16,
    },
    /// Nothing came over a stream for longer than its keep-alive allows.
    #[error("the stream of {url} fell silent")]
    Silent {
        /// Where from.
        url: String,
    },
}

impl Error {
    pub(crate) fn transport(url: &str, source: reqwest::Error) -> Self {
        let url = url.to_owned();
        let source = source.without_url();
        if source.is_connect() { Self::Connect { url, source } } else { Self::Lost { url, source } }
    }

    pub(crate) async fn of_response(
        response: Response,
        is_wanted: fn(StatusCode) -> bool,
    ) -> Result<Response, Self> {
        let status = response.status();
        if is_wanted(status) {
            return Ok(response);
        }
        let bytes = body::read_error(response).await;
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).trim().to_owned();
            let code = ErrorCode::of_status(status.as_u16());
            let message = if text.is_empty() { status.to_string() } else { text };
            ErrorBody { code, message, detail: None, retry: code == ErrorCode::ServiceUnavailable }
        });
        Err(Self::Api { status: status.as_u16(), body })
    }

    /// The kind of error the service answered with, if it answered.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Api { body, .. } => Some(body.code),
            _ => None,
        }
    }

    /// Whether there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::NotFound | ErrorCode::ObjectNotFound))
    }

    /// Whether things are not as the request supposes.
    pub fn is_conflict(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::Conflict))
    }

    /// Whether what was to be made exists already.
    pub fn is_exists(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::ObjectExists))
    }

    /// Whether the request certainly reached nobody.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::NoInstance { .. } | Self::Connect { .. })
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoInstance { .. }
            | Self::Connect { .. }
            | Self::Lost { .. }
            | Self::Silent { .. } => true,
            Self::Api { body, .. } => body.retry,
            Self::Decode { .. } | Self::TooLong { .. } | Self::NotUpgraded { .. } => false,
        }
    }
}
