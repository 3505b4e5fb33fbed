//! Getting and putting, over the URLs a build is given.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::slug::{BuildResult, SlugFile};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Body, Client, Response, StatusCode};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::{
    error::BuildError,
    pack::{Item, pack},
    unpack::{UnpackError, unpack},
};

/// The store is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A transfer on which nothing moves for so long is dead.
const STALLED: Duration = Duration::from_secs(60);
/// Bytes between packing and sending.
const PIPE: usize = 512 * 1024;
/// How much of a refusal is shown.
const MAX_REFUSAL: usize = 500;
/// Attempts to connect, before anything was sent.
const ATTEMPTS: u32 = 5;

/// The other side of a build's URLs.
#[derive(Debug, Clone)]
pub struct Store {
    http: Client,
}

impl Default for Store {
    fn default() -> Self {
        let http = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(STALLED)
            .no_proxy()
            .build()
            .expect("the options of the HTTP client are valid");
        Self { http }
    }
}

impl Store {
    /// Gets an archive and unpacks it. Answers with the time of its newest file; none if there is no archive.
    pub async fn unpack(
        &self,
        what: &'static str,
        url: &str,
        into: &Path,
    ) -> Result<Option<u64>, BuildError> {
        let Some(response) = self.get(url).await? else { return Ok(None) };
        let bytes = response.bytes_stream().map_err(io::Error::other);
        match unpack(StreamReader::new(bytes.boxed()), into).await {
            Ok(newest) => Ok(Some(newest)),
            Err(UnpackError::Refused(source)) => Err(BuildError::Refused { what, source }),
            Err(UnpackError::Io(source)) => Err(BuildError::Unpack { what, source }),
        }
    }

    async fn get(&self, url: &str) -> Result<Option<Response>, BuildError> {
        const DOING: &str = "Getting the source or the cache";
        let mut attempt = 1;
        let response = loop {
            match self.http.get(url).send().await {
                Ok(response) => break response,
                Err(err) if err.is_connect() && attempt < ATTEMPTS => {
                    tokio::time::sleep(Duration::from_millis(200) * attempt).await;
                    attempt += 1;
                }
                Err(err) => return Err(failed(DOING, err)),
            }
        };
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        succeeded(DOING, response).await.map(Some)
    }

    /// Packs a listing and puts it, at once. Answers with its digest and size.
    pub async fn pack(&self, upload: Upload<'_>) -> Result<SlugFile, BuildError> {
        let Upload { what, url, root, items, time, limit } = upload;
        let (writer, reader) = tokio::io::duplex(PIPE);
        // The body ends well only when packing did: a truncated archive must never be taken for a whole one.
        let (whole, packed) = oneshot::channel::<()>();
        let meter = Arc::new(Mutex::new(Meter::default()));
        let metered = meter.clone();
        let chunks = ReaderStream::with_capacity(reader, 64 * 1024).map(move |chunk| {
            let chunk = chunk?;
            let mut meter = metered.lock().unwrap_or_else(PoisonError::into_inner);
            meter.hash.update(&chunk);
            meter.bytes += chunk.len() as u64;
            if meter.bytes > limit { Err(io::Error::other("too large")) } else { Ok(chunk) }
        });
        let end = stream::once(packed).filter_map(|packed| {
            let failed = packed.is_err().then(|| Err(io::Error::other("packing failed")));
            std::future::ready(failed)
        });
        let body = Body::wrap_stream(chunks.chain(end));
        let packing = async {
            pack(root, items, time, writer).await?;
            let _ = whole.send(());
            Ok::<_, io::Error>(())
        };
        let (packed, sent) = tokio::join!(packing, self.put(what, url, body));
        let meter = std::mem::take(&mut *meter.lock().unwrap_or_else(PoisonError::into_inner));
        if meter.bytes > limit {
            return Err(BuildError::TooLarge { limit });
        }
        // If the store refuses, the pipe breaks: its refusal is the reason.
        match (packed, sent) {
            (Err(source), Err(_) | Ok(())) if source.kind() != io::ErrorKind::BrokenPipe => {
                Err(BuildError::Pack { what, source })
            }
            (_, Err(refused)) => Err(refused),
            (Err(source), Ok(())) => Err(BuildError::Pack { what, source }),
            (Ok(()), Ok(())) => {
                Ok(SlugFile { sha256: hex::encode(meter.hash.finalize()), size: meter.bytes })
            }
        }
    }

    /// Puts the result of a build.
    pub async fn put_result(&self, url: &str, result: &BuildResult) -> Result<(), BuildError> {
        let body = serde_json::to_vec(result).expect("a result is plain text");
        self.put("result", url, body.into()).await
    }

    async fn put(&self, what: &'static str, url: &str, body: Body) -> Result<(), BuildError> {
        let doing = match what {
            "slug" => "Storing the slug",
            "cache" => "Storing the cache",
            _ => "Storing the result of the build",
        };
        let response = self.http.put(url).body(body).send().await;
        succeeded(doing, response.map_err(|err| failed(doing, err))?).await.map(drop)
    }
}

/// An archive to be made and put.
#[derive(Debug)]
pub struct Upload<'a> {
    /// `slug` or `cache`.
    pub what: &'static str,
    /// Where it is put.
    pub url: &'a str,
    /// The directory the items are in.
    pub root: &'a Path,
    /// What is packed.
    pub items: &'a [Item],
    /// The time all files get; each keeps its own without.
    pub time: Option<u64>,
    /// Bytes it may have.
    pub limit: u64,
}

#[derive(Default)]
struct Meter {
    hash: Sha256,
    bytes: u64,
}

fn failed(doing: &'static str, source: reqwest::Error) -> BuildError {
    // The URL is a permission.
    BuildError::Transfer { doing, source: source.without_url() }
}

async fn succeeded(doing: &'static str, response: Response) -> Result<Response, BuildError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.text().await.unwrap_or_default();
    let body = body.trim().chars().take(MAX_REFUSAL).collect();
    Err(BuildError::Status { doing, status: status.as_u16(), body })
}
