//! What happened, as streams. One reader a controller selects what is newer than what it has and hands it to all who
//! follow; NOTIFY is only a nudge to it, so nothing is lost, also when Postgres was away. Who fell behind reads what it
//! missed by itself, a bounded piece at a time.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use api::controller::Event;
use axum::body::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    error::{Error, Result},
    store::{self, events::Filter},
};

/// Channel of NOTIFY.
const CHANNEL: &str = "events";
/// The reader looks this often even if no nudge comes.
const SWEEP: Duration = Duration::from_secs(5);
/// Pause before the database is asked again.
const PAUSE: Duration = Duration::from_millis(300);
/// Events read at a time.
const BATCH: usize = 500;
/// Events a follower may be behind before it reads by itself.
const LIVE: usize = 2048;
/// Ids looked through in one query: a filter that matches nothing costs so many rows at most.
const WINDOW: i64 = 100_000;
/// Most followers: each is a connection and a place in memory.
const FOLLOWERS: usize = 2000;

/// An event with its form on the wire, which is made once however many follow.
#[derive(Debug)]
pub(crate) struct Told {
    /// The event.
    pub(crate) event: Event,
    encoded: OnceLock<Bytes>,
}

impl Told {
    fn new(event: Event) -> Arc<Self> {
        Arc::new(Self { event, encoded: OnceLock::new() })
    }

    /// As an event stream carries it.
    pub(crate) fn encoded(&self) -> Bytes {
        self.encoded.get_or_init(|| daemon::events::encode(&self.event)).clone()
    }
}

/// All that happened and happens.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    db: pg::Pool,
    nudges: watch::Sender<u64>,
    live: broadcast::Sender<Arc<Told>>,
    /// The id up to which the reader has read; set before the event is handed out. `None` until it began.
    read: watch::Sender<Option<i64>>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Events {
    /// Readers of one database; streams end with `stop`.
    pub(crate) fn new(db: pg::Pool, stop: CancellationToken) -> Self {
        Self {
            db,
            nudges: watch::Sender::new(0),
            live: broadcast::Sender::new(LIVE),
            read: watch::Sender::new(None),
            places: Arc::new(Semaphore::new(FOLLOWERS)),
            stop,
        }
    }

    /// Hears nudges until the daemon stops.
    pub(crate) async fn keep_hearing(self) {
        let nudge = || self.nudges.send_modify(|count| *count += 1);
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = pg::keep_listening(self.db.config(), CHANNEL, nudge) => {}
        }
    }

    /// Hands what happens to all who follow, until the daemon stops.
    pub(crate) async fn keep_reading(self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.read_on() => {}
        }
    }

    async fn read_on(&self) {
        let mut nudges = self.nudges();
        let mut last = loop {
            match self.last().await {
                Ok(last) => break last,
                Err(err) => pause(&err).await,
            }
        };
        self.read.send_replace(Some(last));
        loop {
            // Before the read: a nudge during it leads to another.
            nudges.mark_unchanged();
            match self.select(last, i64::MAX, &Filter::default()).await {
                Ok(events) if events.is_empty() => {
                    let _ = timeout(SWEEP, nudges.changed()).await;
                }
                Ok(events) => {
                    for event in events {
                        last = event.id;
                        self.read.send_replace(Some(last));
                        // Nobody may follow.
                        let _ = self.live.send(Told::new(event));
                    }
                }
                Err(err) => pause(&err).await,
            }
        }
    }

    async fn select(&self, after: i64, to: i64, filter: &Filter) -> Result<Vec<Event>> {
        let client = self.db.client().await?;
        let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
        store::events::between(&client, after, to, filter, limit).await
    }

    /// Changes whenever something may have happened.
    pub(crate) fn nudges(&self) -> watch::Receiver<u64> {
        self.nudges.subscribe()
    }

    /// The id of the newest event.
    pub(crate) async fn last(&self) -> Result<i64> {
        store::events::last(&self.db.client().await?).await
    }

    /// Every event after one that passes the filter, in order, for ever.
    pub(crate) fn after(
        &self,
        last: i64,
        filter: Filter,
    ) -> Result<impl Stream<Item = Arc<Told>> + Send + use<>> {
        let batches = stream::unfold(self.follower(last, filter)?, async |mut follower| {
            Some((follower.batch().await, follower))
        });
        Ok(self.until_stop(batches.flat_map(stream::iter)))
    }

    /// Follows after an event. Refused if too many do already.
    pub(crate) fn follower(&self, last: i64, filter: Filter) -> Result<Follower> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            Error::Busy(format!("{FOLLOWERS} streams are open here already; try again later"))
        })?;
        let live = self.live.subscribe();
        Ok(Follower { events: self.clone(), filter, last, live, behind: true, _place: place })
    }

    /// The database that formations are read from.
    pub(crate) fn db(&self) -> &pg::Pool {
        &self.db
    }

    /// A stream that ends with the daemon.
    pub(crate) fn until_stop<S: Stream>(&self, stream: S) -> impl Stream<Item = S::Item> + use<S> {
        stream.take_until(self.stop.clone().cancelled_owned())
    }
}

/// Follows events in order.
#[derive(Debug)]
pub(crate) struct Follower {
    events: Events,
    filter: Filter,
    /// All up to this one has been seen, whether it passed the filter or not.
    last: i64,
    live: broadcast::Receiver<Arc<Told>>,
    /// What comes live does not join on to what was seen: the rest is read from the database first.
    behind: bool,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// Waits for events that pass the filter.
    pub(crate) async fn batch(&mut self) -> Vec<Arc<Told>> {
        loop {
            if self.behind {
                match self.catch_up().await {
                    Ok(events) if events.is_empty() => {}
                    Ok(events) => return events.into_iter().map(Told::new).collect(),
                    Err(err) => pause(&err).await,
                }
                continue;
            }
            match self.live.recv().await {
                Ok(told) => {
                    let mut batch = Vec::new();
                    self.take(told, &mut batch);
                    while batch.len() < BATCH
                        && let Ok(told) = self.live.try_recv()
                    {
                        self.take(told, &mut batch);
                    }
                    if !batch.is_empty() {
                        return batch;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => self.behind = true,
                // The events hold the sender, and this holds the events.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    fn take(&mut self, told: Arc<Told>, batch: &mut Vec<Arc<Told>>) {
        if told.event.id <= self.last {
            return;
        }
        self.last = told.event.id;
        if self.filter.includes(&told.event) {
            batch.push(told);
        }
    }

    /// A piece of what the reader has read and this has not seen.
    async fn catch_up(&mut self) -> Result<Vec<Event>> {
        let mut read = self.events.read.subscribe();
        // The events hold the sender.
        let to = read.wait_for(Option::is_some).await.ok().and_then(|read| *read);
        let to = to.unwrap_or_default();
        let end = to.min(self.last.saturating_add(WINDOW));
        if self.last >= end {
            self.behind = false;
            return Ok(Vec::new());
        }
        let events = self.events.select(self.last, end, &self.filter).await?;
        self.last = match events.last() {
            Some(last) if events.len() >= BATCH => last.id,
            _ => end,
        };
        Ok(events)
    }
}

/// Waits before the database is asked again.
pub(crate) async fn pause(err: &Error) {
    debug!(error = err as &dyn std::error::Error, "a stream waits for the database");
    sleep(PAUSE).await;
}
