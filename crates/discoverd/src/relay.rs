//! Following the discoverd of another host, and being followed: so that etcd has a watcher a member, not one a host.

use std::{convert::Infallible, time::Duration};

use api::error::ErrorCode;
use api_client::{Client, Error};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::directory::Fact,
    mirror::{Following, Freshness, Mirror},
};

/// Where a discoverd is followed.
pub(crate) const PATH: &str = "/facts";
/// Facts of a listing told at once.
const PART: usize = 500;
/// How often a quiet discoverd says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// One that said nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(4);

/// What one discoverd tells another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) facts: Vec<Fact>,
    /// Everything up to here has been told; 0: more follows.
    pub(crate) revision: u64,
}

impl Told {
    /// A listing, in parts.
    pub(crate) fn in_parts(mut facts: Vec<Fact>, revision: u64) -> Vec<Self> {
        let mut parts = Vec::new();
        while facts.len() > PART {
            let rest = facts.split_off(PART);
            parts.push(Self { facts: std::mem::replace(&mut facts, rest), revision: 0 });
        }
        parts.push(Self { facts, revision });
        parts
    }

    pub(crate) fn line(&self) -> Bytes {
        let json = serde_json::to_string(self).expect("facts serialise");
        format!("data: {json}\n\n").into()
    }
}

/// Tells a follower everything, for as long as etcd is watched here.
pub(crate) fn response(mirror: &Mirror, stop: CancellationToken) -> Response {
    let Following { present, live } = mirror.subscribe_relay();
    let (_, freshness) = mirror.changes();
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let telling = Telling { live, freshness, beat, stop };
    let present = futures_util::stream::iter(present.into_iter().map(|told| told.line()));
    let news = futures_util::stream::unfold(telling, |mut telling| async move {
        let line = telling.next().await?;
        Some((line, telling))
    });
    let stream = present.chain(news).map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::from_stream(stream));
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

struct Telling {
    live: tokio::sync::broadcast::Receiver<Bytes>,
    freshness: watch::Receiver<Freshness>,
    beat: Interval,
    stop: CancellationToken,
}

impl Telling {
    /// `None` ends it: this discoverd stops, does not watch etcd any more, or the follower is too slow and must begin anew.
    async fn next(&mut self) -> Option<Bytes> {
        let watches_no_more = self.freshness.wait_for(|now| *now != Freshness::Current);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            _ = watches_no_more => None,
            line = self.live.recv() => line.ok(),
            // Without the revision, for what came up to it may still be waiting to be told.
            _ = self.beat.tick() => Some(Told { facts: Vec::new(), revision: 0 }.line()),
        }
    }
}

/// A discoverd that is being followed.
pub(crate) struct Followed {
    told: BoxStream<'static, Result<Told, Error>>,
    /// Everything there was when it began.
    pub(crate) listing: Vec<Fact>,
    /// When that was.
    pub(crate) revision: u64,
}

/// It cannot be followed, or no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error(transparent)]
    Failed(#[from] Error),
    #[error("it ended the stream")]
    Ended,
    #[error("it said nothing for {SILENCE:?}")]
    Silent,
}

impl Lost {
    /// Whether it is there, but etcd is not.
    pub(crate) fn is_for_want_of_etcd(&self) -> bool {
        matches!(self, Self::Failed(err) if err.code() == Some(ErrorCode::ServiceUnavailable))
    }
}

impl Followed {
    /// Asks one to be followed, and hears everything there is.
    pub(crate) async fn begin(client: &Client) -> Result<Self, Lost> {
        let told = timeout(SILENCE, client.events::<Told>(PATH)).await.map_err(|_| Lost::Silent)??;
        let mut this = Self { told: told.boxed(), listing: Vec::new(), revision: 0 };
        (this.listing, this.revision) = this.next().await?;
        Ok(this)
    }

    /// The next facts, and the revision up to which everything has been told then.
    pub(crate) async fn next(&mut self) -> Result<(Vec<Fact>, u64), Lost> {
        let mut facts = Vec::new();
        loop {
            let told = timeout(SILENCE, self.told.next()).await.map_err(|_| Lost::Silent)?;
            let told = told.ok_or(Lost::Ended)??;
            facts.extend(told.facts.into_iter().map(Fact::completed));
            if told.revision != 0 {
                return Ok((facts, told.revision));
            }
        }
    }
}
