//! Extractors.

use std::time::Duration;

use api::error::ErrorCode;
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request, rejection::BytesRejection},
    response::IntoResponse,
};
use http::request::Parts;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::ApiError;

/// Longest time until a JSON body has arrived: one that stops in the middle would keep its request, and a daemon that shall
/// stop, for ever.
const BODY_TIMEOUT: Duration = Duration::from_secs(120);

/// A JSON body, whatever its content type says. Refusals name the field and what was wrong with it.
#[derive(Debug, Clone)]
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let read = timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await;
        let bytes = read.map_err(|_| late())?.map_err(unread)?;
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

fn late() -> ApiError {
    let message = format!("the body did not arrive within {BODY_TIMEOUT:?}; send it again");
    ApiError::new(ErrorCode::SyntaxError, message)
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

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_in_the_middle_is_given_up() {
        let begun = stream::iter([Ok::<_, std::io::Error>(&b"{"[..])]).chain(stream::pending());
        let request = Request::new(axum::body::Body::from_stream(begun));
        let read = Body::<serde_json::Value>::from_request(request, &());
        let read = timeout(2 * BODY_TIMEOUT, read).await.expect("it does not wait for ever");
        assert!(read.unwrap_err().0.message.contains("send it again"));
    }
}
