//! How an error becomes HTTP.

use api::error::{ErrorBody, ErrorCode};
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::StatusCode;

/// An error a handler answers with. Each daemon maps its own errors to this once, in its `error.rs`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}", self.0.message)]
pub struct ApiError(pub ErrorBody);

impl ApiError {
    /// An error of a kind, with a sentence that says what to do.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let retry = matches!(code, ErrorCode::ServiceUnavailable | ErrorCode::Ratelimited);
        Self(ErrorBody { code, message: message.into(), detail: None, retry })
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// 400, naming the field.
    pub fn invalid(field: &str, message: impl std::fmt::Display) -> Self {
        let mut error = Self::new(ErrorCode::ValidationError, format!("{field} {message}"));
        error.0.detail = Some(serde_json::json!({ "field": field }));
        error
    }

    /// 503, try again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ServiceUnavailable, message)
    }

    /// 500; the cause is logged here and not told.
    pub fn internal(doing: &str, cause: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = cause, "{doing} failed");
        Self::new(ErrorCode::UnknownError, format!("{doing} failed; the service's log says why"))
    }

    /// The same with a machine-readable detail.
    pub fn with_detail(mut self, detail: serde_json::Value) -> Self {
        self.0.detail = Some(detail);
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).expect("codes have valid statuses");
        (status, Json(self.0)).into_response()
    }
}
