//! Getting and putting, over the URLs a build is given.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::{error::ErrorBody, slug::BuildResult};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Body, Client, Response, StatusCode, header};
use tokio::{
    io::AsyncBufRead,
    time::{Instant, sleep},
};
use tokio_util::io::StreamReader;

use crate::{
    error::BuildError,
    pack::Packed,
    unpack::{UnpackError, unpack},
};

/// The store is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A transfer on which nothing moves for this long is dead.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time from the last byte of an upload to its answer: the store brings it to its disk in between.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);
/// Bytes sent at a time.
const PIECE: usize = 64 * 1024;
/// How much of a refusal is shown.
const MAX_REFUSAL: usize = 500;
/// Longest environment of an app that is read.
const MAX_ENV: usize = 16 << 20;
/// Tries of a transfer, with pauses that grow to [`PAUSE_MAX`]: a store that is started anew is back by then.
const ATTEMPTS: u32 = 10;
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The other side of a build's URLs.
#[derive(Debug, Clone)]
pub struct Store {
    /// Gives up when nothing comes.
    getting: Client,
    /// Has no time limits of its own: an upload is watched while it flows.
    putting: Client,
    pause: Duration,
    stall: Duration,
}

impl Default for Store {
    fn default() -> Self {
        // What takes nothing for a while is given STALL_TIMEOUT, not what reqwest gives it.
        let builder =
            || Client::builder().connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(None).no_proxy();
        let built = "the options of the HTTP client are valid";
        Self {
            getting: builder().read_timeout(STALL_TIMEOUT).build().expect(built),
            putting: builder().build().expect(built),
            pause: Duration::from_secs(1),
            stall: STALL_TIMEOUT,
        }
    }
}

impl Store {
    /// One that waits less, for tests: between tries at first, and for something to move.
    pub fn with_times(pause: Duration, stall: Duration) -> Self {
        Self { pause, stall, ..Self::default() }
    }

    /// Gets an archive and unpacks it. Answers with the time of its newest file; none if there is no archive.
    pub async fn unpack(
        &self,
        what: &'static str,
        url: &str,
        into: &Path,
    ) -> Result<Option<u64>, BuildError> {
        let Some(response) = self.get(url).await? else { return Ok(None) };
        let bytes = response.bytes_stream().map_err(io::Error::other);
        unpack_stream(what, StreamReader::new(bytes.boxed()), into).await.map(Some)
    }

    /// Gets the environment of the app: JSON.
    pub async fn get_env(&self, url: &str) -> Result<Bytes, BuildError> {
        const DOING: &str = "Getting the environment of the app";
        let missing = || BuildError::Status { doing: DOING, status: 404, body: String::new() };
        let mut response = self.get(url).await?.ok_or_else(missing)?;
        let mut json = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|err| failed(DOING, err))? {
            json.extend_from_slice(&chunk);
            if json.len() > MAX_ENV {
                let body = format!("it has more than {} MiB", MAX_ENV >> 20);
                return Err(BuildError::Status { doing: DOING, status: 200, body });
            }
        }
        Ok(json.into())
    }

    async fn get(&self, url: &str) -> Result<Option<Response>, BuildError> {
        const DOING: &str = "Getting the source or the cache";
        let mut attempt = 0;
        loop {
            attempt += 1;
            let answer = match self.getting.get(url).send().await {
                Ok(response) if response.status() == StatusCode::NOT_FOUND => return Ok(None),
                Ok(response) => succeeded(DOING, response).await,
                Err(err) => Err(failed(DOING, err)),
            };
            match answer {
                Ok(response) => return Ok(Some(response)),
                Err(err) if attempt < ATTEMPTS && may_pass(&err) => self.pause(attempt).await,
                Err(err) => return Err(err),
            }
        }
    }

    async fn pause(&self, attempt: u32) {
        sleep((self.pause * attempt).min(PAUSE_MAX)).await;
    }

    /// Puts an archive, again from its beginning when the store was away, is full of requests, or nothing moved.
    pub async fn put(
        &self,
        what: &'static str,
        url: &str,
        packed: &Arc<Packed>,
    ) -> Result<(), BuildError> {
        let doing = if what == "cache" { "Storing the cache" } else { "Storing the slug" };
        let size = packed.is.size;
        self.tries(doing, url, size, |flow| {
            let packed = packed.clone();
            let pieces = stream::unfold(0, move |at| {
                let piece = packed.piece(at, PIECE).map(Bytes::from);
                let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
                flow.moved(at + length);
                // An error is the last thing the stream says.
                let next = if piece.is_ok() { at + length } else { u64::MAX };
                let end = length == 0 && piece.is_ok() || at == u64::MAX;
                std::future::ready((!end).then_some((piece, next)))
            });
            Body::wrap_stream(pieces)
        })
        .await
    }

    /// Puts the result of a build.
    pub async fn put_result(&self, url: &str, result: &BuildResult) -> Result<(), BuildError> {
        let json = Bytes::from(serde_json::to_vec(result).expect("a result is plain text"));
        let (doing, size) = ("Storing the result of the build", json.len() as u64);
        self.tries(doing, url, size, |flow| {
            flow.moved(size);
            json.clone().into()
        })
        .await
    }

    async fn tries(
        &self,
        doing: &'static str,
        url: &str,
        size: u64,
        body: impl Fn(Flow) -> Body,
    ) -> Result<(), BuildError> {
        let (mut attempt, mut sent_whole) = (0, false);
        loop {
            attempt += 1;
            let flow = Flow::new();
            let request = self.putting.put(url).header(header::CONTENT_LENGTH, size);
            let answer = async {
                let response = request.body(body(flow.clone())).send().await;
                succeeded(doing, response.map_err(|err| failed(doing, err))?).await.map(drop)
            };
            let put = tokio::select! {
                answer = answer => answer,
                () = flow.stalled(size, self.stall) => Err(BuildError::Stalled { doing }),
            };
            let err = match put {
                Ok(()) => return Ok(()),
                Err(err) => err,
            };
            // A URL works once. If an upload of ours came through and only its answer was lost, all is well: the one
            // who ordered the build compares the digests. If it broke off, the store may still be busy with it.
            let used = attempt > 1 && matches!(&err, BuildError::Status { status: 401, .. });
            if used && sent_whole {
                return Ok(());
            }
            sent_whole |= flow.sent() >= size;
            if attempt == ATTEMPTS || !(used || may_pass(&err)) {
                return Err(err);
            }
            self.pause(attempt).await;
        }
    }
}

/// How far an upload is, and since when.
#[derive(Debug, Clone)]
struct Flow {
    sent: Arc<AtomicU64>,
    /// Milliseconds after `begun`.
    moved: Arc<AtomicU64>,
    begun: Instant,
}

impl Flow {
    fn new() -> Self {
        Self { sent: Arc::default(), moved: Arc::default(), begun: Instant::now() }
    }

    fn moved(&self, sent: u64) {
        self.sent.store(sent, Ordering::Relaxed);
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends when nothing has moved for too long.
    async fn stalled(&self, size: u64, stall: Duration) {
        loop {
            let limit = if self.sent() >= size { ANSWER_TIMEOUT } else { stall };
            let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
            let left = (moved + limit).saturating_sub(self.begun.elapsed());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

/// Unpacks an archive as it comes. Answers with the time of its newest file.
pub async fn unpack_stream(
    what: &'static str,
    archive: impl AsyncBufRead + Unpin + Send,
    into: &Path,
) -> Result<u64, BuildError> {
    unpack(archive, into).await.map_err(|err| match err {
        UnpackError::Refused(source) => BuildError::Refused { what, source },
        UnpackError::Io(source) => BuildError::Unpack { what, source },
    })
}

/// Whether the same request may succeed a little later.
fn may_pass(err: &BuildError) -> bool {
    match err {
        BuildError::Transfer { .. } | BuildError::Stalled { .. } => true,
        BuildError::Status { status: 429 | 500 | 502..=504, body, .. } => {
            // A full disk does not empty itself, and says so.
            serde_json::from_str::<ErrorBody>(body).map_or(true, |body| body.retry)
        }
        _ => false,
    }
}

fn failed(doing: &'static str, source: reqwest::Error) -> BuildError {
    // The URL is a permission.
    BuildError::Transfer { doing, source: source.without_url() }
}

async fn succeeded(doing: &'static str, mut response: Response) -> Result<Response, BuildError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let mut body = Vec::new();
    while body.len() < MAX_REFUSAL
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    let body = String::from_utf8_lossy(&body).trim().chars().take(MAX_REFUSAL).collect();
    Err(BuildError::Status { doing, status: status.as_u16(), body })
}
