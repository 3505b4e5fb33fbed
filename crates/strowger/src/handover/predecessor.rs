//! The router before this one.

use std::{
    collections::BTreeMap,
    io,
    net::TcpListener as StdListener,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use api::route::{Drain, Drained, Sync};
use bytes::Bytes;
use daemon::Lifetime;
use http::{Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;
use tokio::{
    net::{TcpListener, UnixStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Door, HANDOVER_TIMEOUT, is_one_of_us, shown, wire::receive_doors};
use crate::error::Error;

/// Longest answer that is read.
const ANSWER_MAX: usize = 64 << 10;

/// What a router gets from the one before it.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    doors: Mutex<BTreeMap<Door, StdListener>>,
    /// Whom it is from.
    pub(crate) predecessor: Option<Arc<Predecessor>>,
}

/// The router before this one, while it is there.
#[derive(Debug)]
pub(crate) struct Predecessor {
    requests: SendRequest<Full<Bytes>>,
    gone: CancellationToken,
}

impl Inheritance {
    /// Asks whoever listens at this name; nothing if nobody does.
    pub(crate) async fn ask(name: &Path, lifetime: &Lifetime) -> Self {
        match timeout(HANDOVER_TIMEOUT, take(name, lifetime)).await {
            Ok(Ok(inheritance)) => inheritance,
            Ok(Err(err)) if err.kind() == io::ErrorKind::ConnectionRefused => Self::default(),
            Ok(Err(err)) => {
                let name = shown(name);
                warn!(error = &err as &dyn std::error::Error, "{name} hands over no sockets");
                Self::default()
            }
            Err(_) => {
                warn!("{} hands over no sockets in time", shown(name));
                Self::default()
            }
        }
    }

    /// The socket for something, if there is one; it is given once.
    pub(crate) fn take(&self, door: Door) -> Option<TcpListener> {
        let listener = self.doors.lock().unwrap_or_else(PoisonError::into_inner).remove(&door)?;
        match TcpListener::from_std(listener) {
            Ok(listener) => Some(listener),
            Err(err) => {
                warn!(error = &err as &dyn std::error::Error, ?door, "a socket is of no use");
                None
            }
        }
    }

    /// What was not taken is closed, and the predecessor accepts no more clients.
    pub(crate) async fn accept(&self) {
        let Some(predecessor) = &self.predecessor else { return };
        predecessor.tell("/serving").await;
        self.doors.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

async fn take(name: &Path, lifetime: &Lifetime) -> io::Result<Inheritance> {
    let stream = UnixStream::connect(name).await?;
    if !is_one_of_us(&stream)? {
        return Err(io::Error::other("it is another user's"));
    }
    let doors = receive_doors(&stream).await?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (requests, connection) = handshake.map_err(io::Error::other)?;
    let gone = CancellationToken::new();
    let predecessor = Arc::new(Predecessor { requests, gone: gone.clone() });
    info!("the router before this one hands over {} sockets", doors.len());
    let (stop, asked) = (lifetime.stop(), predecessor.clone());
    // Until it has been told that this one ends, too.
    lifetime.spawn_drained(async move {
        let told = async {
            stop.cancelled().await;
            asked.tell("/resume").await;
        };
        tokio::select! {
            ended = connection => debug!(?ended, "the router before this one is gone"),
            () = told => {}
        }
        gone.cancel();
    });
    Ok(Inheritance {
        doors: Mutex::new(doors.into_iter().collect()),
        predecessor: Some(predecessor),
    })
}

impl Predecessor {
    /// Waits until it is gone.
    pub(crate) async fn until_gone(&self) {
        self.gone.cancelled().await;
    }

    /// This one has been succeeded itself: there is nothing to come back for.
    pub(crate) async fn release(&self) {
        self.tell("/release").await;
    }

    /// Waits until it has seen these revisions as well.
    ///
    /// # Errors
    /// What it answers instead.
    pub(crate) async fn sync(&self, sync: Sync) -> Result<(), Error> {
        self.ask("/sync", sync).await.map(drop)
    }

    /// Waits until nothing is under way from it to an address.
    ///
    /// # Errors
    /// What it answers instead.
    pub(crate) async fn drain(&self, drain: &Drain) -> Result<Drained, Error> {
        let Some(answer) = self.ask("/drain", drain).await? else { return Ok(Drained::default()) };
        serde_json::from_slice(&answer).map_err(|err| Error::Predecessor(err.to_string()))
    }

    async fn tell(&self, path: &'static str) {
        match timeout(HANDOVER_TIMEOUT, self.request(path, Bytes::new())).await {
            Ok(Some((StatusCode::OK, _)) | None) => {}
            other => warn!(?other, "the router before this one does not take {path}"),
        }
    }

    /// `None` if it is gone.
    async fn ask(&self, path: &str, question: impl Serialize) -> Result<Option<Bytes>, Error> {
        let question =
            serde_json::to_vec(&question).map_err(|err| Error::Predecessor(err.to_string()))?;
        match self.request(path, question.into()).await {
            Some((StatusCode::OK, answer)) => Ok(Some(answer)),
            Some((_, answer)) => Err(Error::Predecessor(sentence(&answer))),
            None => Ok(None),
        }
    }

    async fn request(&self, path: &str, body: Bytes) -> Option<(StatusCode, Bytes)> {
        let request = Request::post(format!("http://predecessor{path}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .ok()?;
        let mut requests = self.requests.clone();
        let answered = async {
            let answer = requests.send_request(request).await.ok()?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await.ok()?;
            Some((status, body.to_bytes()))
        };
        tokio::select! {
            () = self.gone.cancelled() => None,
            answered = answered => answered,
        }
    }
}

fn sentence(answer: &[u8]) -> String {
    let said: Option<api::error::ErrorBody> = serde_json::from_slice(answer).ok();
    said.map_or_else(|| String::from_utf8_lossy(answer).into_owned(), |said| said.message)
}
