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

    /// Tells whenever something happened that passes a filter.
    pub(crate) fn hints(&self, filter: Filter) -> Hints {
        Hints { live: self.live.subscribe(), filter }
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
        // Below the first id there is nothing to look through.
        let last = last.max(0);
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

/// Tells that something happened, and not what. It asks the database nothing, so that who works for one app has no work with
/// what happens to all others.
#[derive(Debug)]
pub(crate) struct Hints {
    live: broadcast::Receiver<Arc<Told>>,
    filter: Filter,
}

impl Hints {
    /// All that was told until now is known.
    pub(crate) fn forget(&mut self) {
        self.live = self.live.resubscribe();
    }

    /// Waits for an event that passes the filter; what was missed may have been one.
    pub(crate) async fn next(&mut self) {
        loop {
            match self.live.recv().await {
                Ok(told) if !self.filter.includes(&told.event) => {}
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                // The daemon is about to end.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
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

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use api::id::AppId;
    use futures_util::FutureExt;
    use jiff::Timestamp;

    use super::*;

    /// Events that nothing but this test tells, over a database that is not there: who asks it, waits for ever.
    fn events() -> Events {
        let config = pg::Config {
            host: "127.0.0.1".into(),
            port: 9,
            user: String::new(),
            password: String::new(),
            database: String::new(),
            application: String::new(),
        };
        let events = Events::new(pg::Pool::new(config, 1), CancellationToken::new());
        events.read.send_replace(Some(0));
        events
    }

    fn tell(events: &Events, id: i64, app: AppId, object_type: &str) {
        let event = Event {
            id,
            app: Some(app),
            object_type: object_type.into(),
            object_id: id.to_string(),
            data: serde_json::Value::Null,
            created_at: Timestamp::UNIX_EPOCH,
        };
        events.read.send_replace(Some(id));
        let _ = events.live.send(Told::new(event));
    }

    #[tokio::test]
    async fn a_follower_asks_the_database_nothing_for_what_its_filter_leaves_out() {
        let (events, app) = (events(), AppId::random());
        let filter = Filter { types: vec!["scale_request".into()], ..Filter::default() };
        let mut follower = events.follower(0, filter).unwrap();
        // It has joined on to what comes.
        assert!(follower.batch().now_or_never().is_none() && !follower.behind);
        for round in 0..10 {
            let first = round * 1000;
            (1..1000).for_each(|n| tell(&events, first + n, app, "job"));
            assert!(follower.batch().now_or_never().is_none(), "none passes");
            assert_eq!((follower.last, follower.behind), (first + 999, false), "and none is due");
            tell(&events, first + 1000, app, "scale_request");
            let batch = follower.batch().now_or_never().expect("it is there");
            assert_eq!(batch.iter().map(|told| told.event.id).collect::<Vec<_>>(), [first + 1000]);
        }
    }

    #[tokio::test]
    async fn a_hint_is_of_what_passes_the_filter_or_was_missed_and_of_nothing_else() {
        let (events, app, other) = (events(), AppId::random(), AppId::random());
        let mut hints = events.hints(Filter { app: Some(app), ..Filter::default() });
        (1..50).for_each(|n| tell(&events, n, other, "job"));
        {
            let mut next = pin!(hints.next());
            assert!(next.as_mut().now_or_never().is_none(), "it is another app's");
            tell(&events, 100, app, "job");
            assert!(next.now_or_never().is_some());
        }
        tell(&events, 101, app, "job");
        hints.forget();
        assert!(hints.next().now_or_never().is_none(), "it was known");
        (0..=LIVE as i64).for_each(|n| tell(&events, 102 + n, other, "job"));
        assert!(hints.next().now_or_never().is_some(), "some were missed");
    }
}
