//! Following a stream of events, again and again.

use std::{sync::Arc, time::Duration};

use api::discoverd::{Event, EventKind};
use api_client::{Client, Error};
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::set::Gather;

/// Pause before the first attempt to subscribe again; doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// A stream that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(5);
/// Most events taken at once before what is known is published.
const BATCH: usize = 1000;

/// Follows for ever; `publish` is given everything that becomes known.
pub(crate) async fn follow<G: Gather>(client: Client, path: &str, publish: impl Fn(Arc<G>)) {
    let client = client.without_retries();
    let mut known = G::default();
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        let began = Instant::now();
        let ended = once(&client, path, &mut known, &publish).await;
        if began.elapsed() > GOOD {
            (pause, told) = (FIRST_PAUSE, false);
        }
        known.set_stale(true);
        publish(Arc::new(known.clone()));
        report(&ended, path, std::mem::replace(&mut told, true));
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

fn report(ended: &Error, path: &str, again: bool) {
    let error = ended as &dyn std::error::Error;
    if again {
        debug!(error, path, "the stream {path} ended; subscribing again");
    } else {
        warn!(error, path, "the stream {path} ended; subscribing again");
    }
}

/// One subscription, to its end.
async fn once<G: Gather>(
    client: &Client,
    path: &str,
    known: &mut G,
    publish: &impl Fn(Arc<G>),
) -> Error {
    let ended = || Error::Silent { url: path.into() };
    let mut events = match client.events::<Event>(path).await {
        Ok(events) => Box::pin(events),
        Err(err) => return err,
    };
    // What was known stands until everything has been told again.
    let mut fresh = G::default();
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                let current = event.kind == EventKind::Current;
                fresh.apply(event);
                if current {
                    break;
                }
            }
            Some(Err(err)) => return err,
            None => return ended(),
        }
    }
    fresh.succeed(known);
    *known = fresh;
    publish(Arc::new(known.clone()));
    loop {
        let mut next = match events.next().await {
            Some(next) => next,
            None => return ended(),
        };
        // What has come together is published together.
        for _ in 0..BATCH {
            match next {
                Ok(event) => known.apply(event),
                Err(err) => {
                    publish(Arc::new(known.clone()));
                    return err;
                }
            }
            match events.next().now_or_never() {
                Some(Some(more)) => next = more,
                Some(None) => {
                    publish(Arc::new(known.clone()));
                    return ended();
                }
                None => break,
            }
        }
        publish(Arc::new(known.clone()));
    }
}
