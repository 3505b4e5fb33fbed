//! Extractors.

use api::error::ErrorCode;
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request, rejection::BytesRejection},
    response::IntoResponse,
};
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::ApiError;

/// A JSON body, whatever its content type says. Refusals name the field and what was wrong with it.
#[derive(Debug, Clone)]
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(unread)?;
        parse(if bytes.is_empty() { b"{}" } else { &bytes }).map(Self)
    }
}

/// The query of a URL. Refusals are errors as any other.
#[derive(Debug, Clone)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        query.map(|query| Self(query.0)).map_err(|rejection| {
            let message = format!("the query cannot be used: {}", rejection.body_text());
            ApiError::new(ErrorCode::ValidationError, message)
        })
    }
}

fn unread(rejection: BytesRejection) -> ApiError {
    if rejection.into_response().status() == http::StatusCode::PAYLOAD_TOO_LARGE {
        ApiError::new(ErrorCode::RequestBodyTooBig, "the body is larger than this endpoint takes")
    } else {
        ApiError::new(ErrorCode::SyntaxError, "the body could not be read to its end")
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|err| {
        let code = if err.is_data() { ErrorCode::ValidationError } else { ErrorCode::SyntaxError };
        ApiError::new(code, format!("the JSON body cannot be used: {err}"))
    })
}
