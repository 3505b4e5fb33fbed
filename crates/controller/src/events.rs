//! What happened, as streams. NOTIFY is only a nudge: a reader selects what is newer than what it has, so nothing is lost,
//! also when Postgres was away.

use std::time::Duration;

use api::{
    controller::{Event, ExpandedFormation},
    id::{AppId, ReleaseId},
};
use futures_util::{Stream, StreamExt, stream};
use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    error::Result,
    store::{self, events::Filter},
};

/// Channel of NOTIFY.
const CHANNEL: &str = "events";
/// A reader looks this often even if no nudge comes.
const SWEEP: Duration = Duration::from_secs(5);
/// Pause before the database is asked again.
const PAUSE: Duration = Duration::from_millis(300);
/// Events read at a time.
const BATCH: i64 = 500;

/// All that happened and happens.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    db: pg::Pool,
    nudges: watch::Sender<u64>,
    stop: CancellationToken,
}

impl Events {
    /// Readers of one database; streams end with `stop`.
    pub(crate) fn new(db: pg::Pool, stop: CancellationToken) -> Self {
        Self { db, nudges: watch::Sender::new(0), stop }
    }

    /// Hears nudges until the daemon stops.
    pub(crate) async fn keep_hearing(self) {
        let nudge = || self.nudges.send_modify(|count| *count += 1);
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = pg::keep_listening(self.db.config(), CHANNEL, nudge) => {}
        }
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
    ) -> impl Stream<Item = Event> + Send + use<> {
        let batches = stream::unfold(self.reader(last, filter), async |mut reader| {
            let (_, events) = reader.batch().await;
            reader.past(&events);
            Some((events, reader))
        });
        self.until_stop(batches.flat_map(stream::iter))
    }

    /// All formations changed since then, then `None`, then every change.
    ///
    /// What is sent of a formation is read after the event that announces its change, so it is never older than what was
    /// sent before.
    pub(crate) async fn formations(
        &self,
        since: Option<Timestamp>,
    ) -> Result<impl Stream<Item = Option<ExpandedFormation>> + Send + use<>> {
        let client = self.db.client().await?;
        // What happens after this is followed, what happened before is in the backlog; both is harmless.
        let last = store::events::last(&client).await?;
        let keys = store::formations::keys(&client, since).await?;
        let mut backlog: Vec<_> = expand(&client, &keys).await?.into_iter().map(Some).collect();
        backlog.push(None);
        drop(client);
        let types = ["scale_request", "app", "app_release"].map(str::to_owned).into();
        let reader = self.reader(last, Filter { types, ..Filter::default() });
        let changes = stream::unfold(reader, async |mut reader| {
            loop {
                let (client, events) = reader.batch().await;
                match changed(&client, &events).await {
                    Ok(formations) => {
                        reader.past(&events);
                        return Some((formations, reader));
                    }
                    // The same events are read again.
                    Err(err) => pause(&err).await,
                }
            }
        });
        let changes = changes.flat_map(stream::iter).map(Some);
        Ok(self.until_stop(stream::iter(backlog).chain(changes)))
    }

    fn reader(&self, last: i64, filter: Filter) -> Reader {
        Reader { db: self.db.clone(), nudges: self.nudges(), last, filter }
    }

    fn until_stop<S: Stream>(&self, stream: S) -> impl Stream<Item = S::Item> + use<S> {
        stream.take_until(self.stop.clone().cancelled_owned())
    }
}

/// Reads events in order, and each until it has been dealt with.
struct Reader {
    db: pg::Pool,
    nudges: watch::Receiver<u64>,
    last: i64,
    filter: Filter,
}

impl Reader {
    /// Waits for events, and answers with a connection to look at what they are about.
    async fn batch(&mut self) -> (pg::Client, Vec<Event>) {
        loop {
            // Before the read: a nudge during it leads to another.
            self.nudges.mark_unchanged();
            match self.read().await {
                Ok((client, events)) if !events.is_empty() => return (client, events),
                Ok(_) => {
                    let _ = timeout(SWEEP, self.nudges.changed()).await;
                }
                Err(err) => pause(&err).await,
            }
        }
    }

    async fn read(&self) -> Result<(pg::Client, Vec<Event>)> {
        let client = self.db.client().await?;
        let events = store::events::after(&client, self.last, &self.filter, BATCH).await?;
        Ok((client, events))
    }

    fn past(&mut self, events: &[Event]) {
        self.last = events.last().map_or(self.last, |event| event.id);
    }
}

async fn pause(err: &crate::error::Error) {
    debug!(error = err as &dyn std::error::Error, "a stream waits for the database");
    sleep(PAUSE).await;
}

/// The formations that events are about, as they are now.
async fn changed(client: &pg::Client, events: &[Event]) -> Result<Vec<ExpandedFormation>> {
    let mut keys: Vec<(AppId, ReleaseId)> = Vec::new();
    for event in events {
        let Some(app) = event.app else { continue };
        if event.object_type == "scale_request" {
            keys.extend(event.object_id.parse().ok().map(|release| (app, release)));
        } else {
            let formations = store::formations::of_app(client, app).await?;
            keys.extend(formations.iter().map(|formation| (app, formation.release)));
        }
    }
    keys.sort_unstable();
    keys.dedup();
    expand(client, &keys).await
}

async fn expand(
    client: &pg::Client,
    keys: &[(AppId, ReleaseId)],
) -> Result<Vec<ExpandedFormation>> {
    let mut formations = Vec::with_capacity(keys.len());
    for &key in keys {
        formations.extend(store::formations::expand(client, key).await?);
    }
    Ok(formations)
}
