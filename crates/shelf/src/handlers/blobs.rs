//! Blobs.

use std::io;

use api::blob::{Blob, COPY_FROM, OFFSET};
use axum::{
    Extension, Json,
    body::Body,
    extract::{FromRequestParts, Query, State},
    response::{IntoResponse, Response},
};
use daemon::ApiError;
use futures_util::StreamExt;
use http::{HeaderMap, Method, StatusCode, header, request::Parts};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::{
    access::Access,
    domain::{
        BlobPath,
        range::{Conditions, Part, part},
    },
    error::StoreError,
    store::{OpenBlob, Store},
};

/// Bytes read from the disk at a time.
const READ_SIZE: usize = 256 << 10;

impl<S: Send + Sync> FromRequestParts<S> for BlobPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        BlobPath::parse(parts.uri.path()).map_err(|why| ApiError::invalid("path", why))
    }
}

/// Stores the body, or a copy of another blob.
pub(crate) async fn put(
    State(store): State<Store>,
    Extension(access): Extension<Access>,
    path: BlobPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    // A part would take the place of the whole (RFC 9110 §14.5).
    for partial in [OFFSET, header::CONTENT_RANGE.as_str()] {
        if headers.contains_key(partial) {
            return Err(ApiError::invalid(partial, "is not obeyed here: send the whole blob"));
        }
    }
    let sha256 = match headers.get(COPY_FROM) {
        Some(from) => store.copy(copied(from)?, path).await?,
        None => store.put(path, body.into_data_stream(), access.limit()).await?,
    };
    access.spend();
    Ok([(header::ETAG, quoted(&sha256))].into_response())
}

fn copied(from: &http::HeaderValue) -> Result<BlobPath, ApiError> {
    let from = from.to_str().map_err(|_| ApiError::invalid(COPY_FROM, "is not text"))?;
    BlobPath::parse(from).map_err(|why| ApiError::invalid(COPY_FROM, why))
}

/// Sends a blob or a part of it. (`HEAD` comes here too; its body is dropped unread.)
pub(crate) async fn get(
    State(store): State<Store>,
    Extension(access): Extension<Access>,
    path: BlobPath,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let blob = store.get(path).await?;
    let etag = quoted(&blob.sha256);
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let conditions = Conditions {
        if_none_match: text(header::IF_NONE_MATCH),
        // Defined for GET alone (RFC 9110 §14.2).
        range: text(header::RANGE).filter(|_| method == Method::GET),
        if_range: text(header::IF_RANGE),
    };
    let size = blob.size;
    let (status, range) = match part(conditions, &etag, size) {
        Part::Whole => (StatusCode::OK, 0..size),
        Part::Bytes(range) => (StatusCode::PARTIAL_CONTENT, range),
        Part::NotModified => {
            return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
        }
        Part::Unsatisfiable => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, range).into_response());
        }
    };
    let mut response = Response::builder()
        .status(status)
        .header(header::ETAG, etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, range.end - range.start);
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        response = response.header(header::CONTENT_RANGE, range);
    }
    let body = content(blob, range, access).await?;
    Ok(response.body(body).expect("all headers are numbers, hex digits and constants"))
}

/// The bytes of a part. With the last of them a URL that was allowed once is spent.
async fn content(
    blob: OpenBlob,
    range: std::ops::Range<u64>,
    access: Access,
) -> Result<Body, ApiError> {
    let mut file = tokio::fs::File::from_std(blob.file);
    file.seek(io::SeekFrom::Start(range.start)).await.map_err(StoreError::io("reading a blob"))?;
    let mut left = range.end - range.start;
    if left == 0 {
        access.spend();
    }
    // Only who reads all of it can be told that it is not what was stored.
    let mut digest = (left == blob.size).then(Sha256::new);
    let chunks = ReaderStream::with_capacity(file.take(left), READ_SIZE).map(move |chunk| {
        let chunk = chunk?;
        left = left.saturating_sub(chunk.len() as u64);
        if let Some(digest) = &mut digest {
            digest.update(&chunk);
            if left == 0 && hex::encode(digest.clone().finalize()) != blob.sha256 {
                tracing::error!(
                    "the disk gave other bytes for blob {} than were stored",
                    blob.sha256
                );
                // The answer ends short of its length, so nobody takes it for the blob.
                return Err(io::Error::other("the blob is damaged"));
            }
        }
        if left == 0 && !chunk.is_empty() {
            access.spend();
        }
        Ok(chunk)
    });
    Ok(Body::from_stream(chunks))
}

/// Which version of a blob is to be removed.
#[derive(Debug, Deserialize)]
pub(crate) struct Deleting {
    /// Nanoseconds of Unix time; one that was stored later stays.
    #[serde(default)]
    not_after: Option<u64>,
}

/// Removes a blob.
pub(crate) async fn delete(
    State(store): State<Store>,
    Extension(access): Extension<Access>,
    path: BlobPath,
    Query(Deleting { not_after }): Query<Deleting>,
) -> Result<(), ApiError> {
    store.delete(path, not_after).await?;
    access.spend();
    Ok(())
}

/// Which blobs.
#[derive(Debug, Deserialize)]
pub(crate) struct Listing {
    #[serde(default, alias = "dir")]
    prefix: String,
}

/// Lists blobs.
pub(crate) async fn list(
    State(store): State<Store>,
    Query(Listing { prefix }): Query<Listing>,
) -> Result<Json<Vec<Blob>>, ApiError> {
    Ok(Json(store.list(prefix).await?))
}

fn quoted(sha256: &str) -> String {
    format!("\"{sha256}\"")
}
