//! Event streams. An event is written once and shared by all watchers.

use std::{convert::Infallible, sync::Arc};

use api::discoverd::EventKind;
use axum::{body::Body, response::Response};
use bytes::Bytes;
use daemon::events::{COMMENT, KEEP_ALIVE};
use http::{HeaderValue, header};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Interval, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use crate::mirror::{Line, Subscription};

/// The last words to a watcher that did not keep up.
const TOO_SLOW: Bytes =
    Bytes::from_static(b"event: error\ndata: this watcher is too slow; subscribe again\n\n");

struct Live {
    lines: Receiver<Arc<Line>>,
    wanted: fn(EventKind) -> bool,
    quiet: Interval,
    stop: CancellationToken,
}

/// Answers with what is there and then with everything that comes, of the kinds wanted, until the watcher goes, falls
/// behind or the daemon stops.
pub(crate) fn response(
    subscription: Subscription,
    wanted: fn(EventKind) -> bool,
    stop: CancellationToken,
) -> Response {
    let Subscription { present, live } = subscription;
    let lines = present.iter().filter(|line| wanted(line.kind));
    // Something is sent at once, so that the watcher sees the answer begin.
    let first = lines.fold(COMMENT.to_vec(), |mut all, line| {
        all.extend_from_slice(&line.bytes);
        all
    });
    let mut quiet = interval_at(tokio::time::Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    quiet.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let live = Live { lines: live, wanted, quiet, stop };
    let stream = futures_util::stream::unfold(
        (Some(Bytes::from(first)), Some(live)),
        |(first, live)| async move {
            let mut live = live?;
            if let Some(first) = first {
                return Some((Ok::<_, Infallible>(first), (None, Some(live))));
            }
            match live.next().await? {
                Ok(bytes) => Some((Ok(bytes), (None, Some(live)))),
                Err(last_words) => Some((Ok(last_words), (None, None))),
            }
        },
    );
    let mut response = Response::new(Body::from_stream(stream));
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    let no_cache = HeaderValue::from_static("no-cache");
    response.headers_mut().insert(header::CACHE_CONTROL, no_cache);
    response
}

impl Live {
    async fn next(&mut self) -> Option<Result<Bytes, Bytes>> {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                line = self.lines.recv() => match line {
                    Ok(line) if (self.wanted)(line.kind) => {
                        self.quiet.reset();
                        return Some(Ok(line.bytes.clone()));
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return Some(Err(TOO_SLOW)),
                    Err(RecvError::Closed) => return None,
                },
                _ = self.quiet.tick() => return Some(Ok(COMMENT)),
            }
        }
    }
}
