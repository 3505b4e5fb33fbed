//! Following the discoverd of another host, and being followed: so that etcd has a watcher a member, not one a host.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use api::error::ErrorCode;
use api_client::{Client, Error};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, broadcast, watch},
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::directory::{Directory, Fact},
    mirror::{Following, Freshness, Mirror},
};

/// Where a discoverd is followed.
pub(crate) const PATH: &str = "/facts";
/// Facts of a listing told at once.
const PART: usize = 500;
/// Listings under way at once: each is everything, in memory. Who finds no place asks again.
const LISTINGS: usize = 8;
/// Most bytes of what was told last that are kept, for those who were away for a moment.
const RECENT: usize = 8 << 20;
/// How often a quiet discoverd says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// One that said nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(4);

/// What one discoverd tells another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) facts: Vec<Fact>,
    /// Everything up to here has been told; 0: more follows.
    pub(crate) revision: u64,
    /// This is a part of everything there is, and not of what is new.
    #[serde(default)]
    pub(crate) listing: bool,
}

impl Told {
    /// A listing, in parts.
    pub(crate) fn in_parts(mut facts: Vec<Fact>, revision: u64) -> Vec<Self> {
        let mut parts = Vec::new();
        while facts.len() > PART {
            let rest = facts.split_off(PART);
            let facts = std::mem::replace(&mut facts, rest);
            parts.push(Self { facts, revision: 0, listing: true });
        }
        parts.push(Self { facts, revision, listing: true });
        parts
    }

    pub(crate) fn line(&self) -> Bytes {
        let json = serde_json::to_string(self).expect("facts serialise");
        format!("data: {json}\n\n").into()
    }
}

/// What a follower knows already.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct After {
    /// Everything up to here.
    revision: u64,
    /// In the history of this epoch: after a recovery etcd counts from an earlier revision again.
    epoch: u64,
}

/// What was told last, of one epoch.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    epoch: u64,
    /// It begins after this revision.
    since: u64,
    last: u64,
    lines: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

impl Recent {
    /// Remembers what was told, up to `revision`.
    pub(crate) fn push(&mut self, epoch: u64, revision: u64, line: Bytes) {
        if epoch != self.epoch || revision < self.last {
            *self = Self { epoch, since: revision, last: revision, ..Self::default() };
            return;
        }
        self.last = revision;
        self.bytes += line.len();
        self.lines.push_back((revision, line));
        while self.bytes > RECENT {
            let Some((revision, line)) = self.lines.pop_front() else { return };
            self.since = revision;
            self.bytes -= line.len();
        }
    }

    /// Everything was told anew: what came before does not lead there.
    pub(crate) fn restart(&mut self, epoch: u64, revision: u64) {
        *self = Self { epoch, since: revision, last: revision, ..Self::default() };
    }

    /// What was told after that; `None` if not all of it is known any more.
    pub(crate) fn after(&self, after: After) -> Option<Vec<Bytes>> {
        let known = after.epoch == self.epoch
            && after.revision != 0
            && (self.since..=self.last).contains(&after.revision);
        let lines = self.lines.iter().filter(|(revision, _)| *revision > after.revision);
        known.then(|| lines.map(|(_, line)| line.clone()).collect())
    }
}

/// Who may be told everything at present.
#[derive(Debug, Clone)]
pub(crate) struct Listings(Arc<Semaphore>);

impl Default for Listings {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LISTINGS)))
    }
}

/// Tells a follower everything, or what is new to it, for as long as etcd is watched here. `None` if too many are being
/// told everything.
pub(crate) fn response(
    mirror: &Mirror,
    after: After,
    listings: &Listings,
    stop: CancellationToken,
) -> Option<Response> {
    let place = listings.0.clone().try_acquire_owned().ok()?;
    let Following { present, live } = mirror.subscribe_relay(after);
    let (_, freshness) = mirror.changes();
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let telling = Telling { live, freshness, beat, stop };
    let present = futures_util::stream::iter(present);
    let told = futures_util::stream::once(async move {
        drop(place);
        daemon::events::COMMENT
    });
    let news = futures_util::stream::unfold(telling, |mut telling| async move {
        let line = telling.next().await?;
        Some((line, telling))
    });
    let stream = present.chain(told).chain(news).map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::from_stream(stream));
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Some(response)
}

struct Telling {
    live: broadcast::Receiver<Bytes>,
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
            _ = self.beat.tick() => Some(Told::default().line()),
        }
    }
}

/// A discoverd that is being followed.
pub(crate) struct Followed {
    told: BoxStream<'static, Result<Told, Error>>,
    /// What it said first: everything there is, or what is new.
    pub(crate) first: Told,
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

impl After {
    pub(crate) fn of(directory: &Directory) -> Self {
        Self { revision: directory.revision(), epoch: directory.epoch() }
    }
}

impl Lost {
    /// Whether it is there, but cannot tell anything at the moment: etcd is away, or too many ask.
    pub(crate) fn is_for_a_while(&self) -> bool {
        matches!(self, Self::Failed(err) if err.code() == Some(ErrorCode::ServiceUnavailable))
    }
}

impl Followed {
    /// Asks one to be followed, from what is known on, and hears how it begins.
    pub(crate) async fn begin(client: &Client, known: After) -> Result<Self, Lost> {
        let path = format!("{PATH}?revision={}&epoch={}", known.revision, known.epoch);
        let told = timeout(SILENCE, client.events::<Told>(&path)).await;
        let told = told.map_err(|_| Lost::Silent)??.boxed();
        let mut this = Self { told, first: Told::default() };
        this.first = this.next().await?;
        Ok(this)
    }

    /// The next facts, up to a revision.
    pub(crate) async fn next(&mut self) -> Result<Told, Lost> {
        let mut all = Told::default();
        loop {
            let told = timeout(SILENCE, self.told.next()).await.map_err(|_| Lost::Silent)?;
            let told = told.ok_or(Lost::Ended)??;
            all.facts.extend(told.facts.into_iter().map(Fact::completed));
            if told.revision != 0 {
                return Ok(Told { revision: told.revision, listing: told.listing, ..all });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(revision: u64) -> Bytes {
        revision.to_string().into()
    }

    proptest! {
        #[test]
        fn who_was_away_is_told_all_it_missed_or_everything(
            steps in prop::collection::vec((1u64..3, prop::bool::weighted(0.1)), 1..30),
            revision in 0u64..60,
        ) {
            let mut recent = Recent::default();
            let (mut epoch, mut last, mut history) = (0, 0, Vec::new());
            for (step, recovers) in steps {
                if recovers {
                    // A recovery takes back some and is another history.
                    (epoch, last, history) = (epoch + 1, last / 2, Vec::new());
                    recent.restart(epoch, last);
                }
                last += step;
                history.push(last);
                recent.push(epoch, last, line(last));
            }
            if let Some(lines) = recent.after(After { revision, epoch }) {
                let missed = history.iter().filter(|one| **one > revision);
                prop_assert_eq!(lines, missed.map(|one| line(*one)).collect::<Vec<_>>());
                prop_assert!(revision <= last);
            }
            let elsewhere = After { revision, epoch: epoch + 1 };
            prop_assert_eq!(recent.after(elsewhere), None);
            let up_to_date = After { revision: last, epoch };
            prop_assert_eq!(recent.after(up_to_date), Some(vec![]));
        }
    }

    #[test]
    fn what_was_told_is_kept_within_bounds() {
        let mut recent = Recent::default();
        let long = Bytes::from(vec![0; RECENT / 4]);
        (1..=10).for_each(|revision| recent.push(0, revision, long.clone()));
        assert!(recent.bytes <= RECENT);
        assert!(recent.after(After { revision: 5, epoch: 0 }).is_none());
        assert_eq!(recent.after(After { revision: 8, epoch: 0 }).unwrap().len(), 2);
    }
}
