#![doc = include_str!("../README.md")]

use std::{
    io,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use api::blob::{Blob, COPY_FROM, Grant, NOT_AFTER};
use api_client::{Client, Endpoint};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use reqwest::{Body, Method, RequestBuilder, Response, header};
use tokio_util::io::ReaderStream;

/// Longest time one transfer may take, however large the blob.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(1800);
/// Longest time without a byte of a blob that is being read.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes read at a time from a file that is sent.
const READ_SIZE: usize = 256 << 10;

/// Why a blob could not be stored or had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request failed.
    #[error(transparent)]
    Http(#[from] api_client::Error),
    /// A file to be sent cannot be read.
    #[error("{} cannot be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer has no usable digest: not shelf, or not its version.
    #[error("shelf did not say the SHA-256 of {path}")]
    NoDigest {
        /// The blob.
        path: String,
    },
    /// The transfer broke off.
    #[error("reading {path} from shelf broke off: {reason}")]
    Broken {
        /// The blob.
        path: String,
        /// What happened.
        reason: String,
    },
    /// The blob is larger than the caller takes.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The blob.
        path: String,
        /// What the caller takes.
        limit: u64,
    },
}

impl Error {
    /// Whether there is no such blob.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Http(err) if err.is_not_found())
    }
}

/// A blob that is being read.
pub struct Reading {
    /// Hex SHA-256 of the whole blob.
    pub sha256: String,
    /// Bytes of the whole blob.
    pub size: u64,
    path: String,
    response: Response,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reading({}, {} bytes)", self.path, self.size)
    }
}

impl Reading {
    /// The content. Ends with an error if the connection breaks, and after a minute without a byte.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        let path = self.path;
        unstalled(self.response.bytes_stream().boxed())
            .map_err(move |reason| Error::Broken { path: path.clone(), reason })
    }
}

/// Ends a stream with an error when it stalls.
fn unstalled(
    stream: futures_util::stream::BoxStream<'static, reqwest::Result<Bytes>>,
) -> impl Stream<Item = Result<Bytes, String>> + Send + 'static {
    futures_util::stream::try_unfold(stream, |mut stream| async move {
        match tokio::time::timeout(STALL_TIMEOUT, stream.next()).await {
            Err(_) => Err(format!("nothing came for {STALL_TIMEOUT:?}")),
            Ok(Some(Err(err))) => Err(err.to_string()),
            Ok(Some(Ok(chunk))) => Ok(Some((chunk, stream))),
            Ok(None) => Ok(None),
        }
    })
}

/// shelf. Paths begin with a slash.
#[derive(Debug, Clone)]
pub struct Shelf {
    client: Client,
    key: String,
}

impl Shelf {
    /// A client that gives `key`; of several, separated by commas while they change, the first.
    pub fn new(endpoint: impl Into<Endpoint>, key: impl Into<String>) -> Self {
        let keys = key.into();
        let key = keys.split(',').next().unwrap_or_default().trim().to_owned();
        Self { client: Client::new(endpoint, Some(key.clone())), key }
    }

    /// Stores bytes; answers their hex SHA-256.
    pub async fn put_bytes(&self, path: &str, bytes: impl Into<Bytes>) -> Result<String, Error> {
        let bytes = bytes.into();
        self.put(path, |request| request.body(bytes.clone())).await
    }

    /// Stores a file; answers its hex SHA-256.
    pub async fn put_file(&self, path: &str, file: &Path) -> Result<String, Error> {
        let failed = |source| Error::File { path: file.into(), source };
        let opened = tokio::fs::File::open(file).await.map_err(failed)?.into_std().await;
        self.put(path, |request| {
            // The client sends a request again only after the one before has ended: the position is ours alone.
            let body = io::Seek::rewind(&mut &opened)
                .and_then(|()| Ok((opened.metadata()?.len(), opened.try_clone()?)));
            match body {
                Ok((len, file)) => {
                    let chunks =
                        ReaderStream::with_capacity(tokio::fs::File::from_std(file), READ_SIZE);
                    request.header(header::CONTENT_LENGTH, len).body(Body::wrap_stream(chunks))
                }
                Err(err) => request.body(failing(err)),
            }
        })
        .await
    }

    /// Stores what comes over a stream; answers its hex SHA-256. A stream can be sent only once, so nothing is tried again
    /// after its first byte was asked for.
    pub async fn put_stream<S>(&self, path: &str, stream: S) -> Result<String, Error>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let stream = Mutex::new(Some(Body::wrap_stream(stream)));
        let taken = || stream.lock().ok().and_then(|mut body| body.take());
        let once = Self { client: self.client.without_retries(), key: String::new() };
        // Until shelf has been reached at all: a request of its own, whose answer does not matter, finds it.
        self.head(path).await?;
        once.put(path, |request| {
            request.body(taken().unwrap_or_else(|| {
                failing(io::Error::other("the stream was sent already and cannot be sent again"))
            }))
        })
        .await
    }

    /// Makes `to` the same blob as `from`, without sending it; answers its hex SHA-256.
    pub async fn copy(&self, from: &str, to: &str) -> Result<String, Error> {
        self.put(to, |request| request.header(COPY_FROM, from)).await
    }

    async fn put(
        &self,
        path: &str,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<String, Error> {
        let build = |request: RequestBuilder| build(request.timeout(TRANSFER_TIMEOUT));
        let response = self.client.send(Method::PUT, path, build).await?;
        digest(path, &response)
    }

    /// Begins to read a blob.
    pub async fn get(&self, path: &str) -> Result<Reading, Error> {
        let timed = |request: RequestBuilder| request.timeout(TRANSFER_TIMEOUT);
        let response = self.client.send(Method::GET, path, timed).await?;
        reading(path, response)
    }

    /// Begins to read a blob from an offset on.
    pub async fn get_from(&self, path: &str, offset: u64) -> Result<Reading, Error> {
        let build = |request: RequestBuilder| {
            request.timeout(TRANSFER_TIMEOUT).header(header::RANGE, format!("bytes={offset}-"))
        };
        reading(path, self.client.send(Method::GET, path, build).await?)
    }

    /// A whole small blob.
    pub async fn get_bytes(&self, path: &str, limit: u64) -> Result<Bytes, Error> {
        let reading = self.get(path).await?;
        let too_large = || Error::TooLarge { path: path.into(), limit };
        if reading.size > limit {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let mut stream = Box::pin(reading.into_stream());
        while let Some(chunk) = stream.try_next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }

    /// Size and digest of a blob, or `None` if there is none.
    pub async fn head(&self, path: &str) -> Result<Option<(u64, String)>, Error> {
        match self.client.send(Method::HEAD, path, |request| request).await {
            Ok(response) => {
                let size = length(&response);
                Ok(Some((size, digest(path, &response)?)))
            }
            Err(err) if err.is_not_found() => Ok(None),
            Err(err) => Err(err.into()),
        }
    }

    /// Removes a blob; that there is none is success.
    pub async fn delete(&self, path: &str) -> Result<(), Error> {
        match self.client.send(Method::DELETE, path, |request| request).await {
            Ok(_) => Ok(()),
            Err(err) if err.is_not_found() => Ok(()),
            Err(err) => Err(err.into()),
        }
    }

    /// Removes a listed blob, unless another was stored in its place since.
    pub async fn delete_listed(&self, blob: &Blob) -> Result<(), Error> {
        let at = blob.modified.as_nanosecond();
        self.delete(&format!("{}?{NOT_AFTER}={at}", blob.path)).await
    }

    /// Blobs whose path begins with `prefix`, in the order of their paths.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Blob>, Error> {
        Ok(self.client.get(&format!("/?prefix={prefix}")).await?)
    }

    /// Removes all blobs whose path begins with `prefix`.
    pub async fn delete_all(&self, prefix: &str) -> Result<(), Error> {
        for blob in self.list(prefix).await? {
            self.delete(&blob.path).await?;
        }
        Ok(())
    }

    /// A URL that lets whoever has it do one thing once: `method` (`GET` or `PUT`) on `path`, at most `limit` bytes of
    /// body, for as long as `ttl`. `base` is shelf's address as the user of the URL sees it.
    pub fn signed_url(
        &self,
        base: &str,
        method: &str,
        path: &str,
        limit: u64,
        ttl: Duration,
    ) -> String {
        let expires = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let grant = Grant {
            method: method.into(),
            expires: (expires + ttl).as_secs(),
            limit,
            nonce: hex::encode(rand::random::<[u8; 16]>()),
        };
        format!("{}{path}?{}", base.trim_end_matches('/'), grant.query(&self.key, path))
    }
}

fn failing(err: io::Error) -> Body {
    Body::wrap_stream(futures_util::stream::once(async { Err::<Bytes, _>(err) }))
}

fn reading(path: &str, response: Response) -> Result<Reading, Error> {
    Ok(Reading {
        sha256: digest(path, &response)?,
        size: length(&response),
        path: path.into(),
        response,
    })
}

fn length(response: &Response) -> u64 {
    let value = response.headers().get(header::CONTENT_LENGTH);
    value.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or_default()
}

fn digest(path: &str, response: &Response) -> Result<String, Error> {
    let etag = response.headers().get(header::ETAG).and_then(|value| value.to_str().ok());
    etag.map(|etag| etag.trim_matches('"').to_owned())
        .filter(|digest| digest.len() == 64)
        .ok_or_else(|| Error::NoDigest { path: path.into() })
}
