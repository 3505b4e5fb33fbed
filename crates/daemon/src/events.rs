//! Server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// A comment this often keeps a quiet stream open, and tells the client that the server is alive.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A comment: one line. An empty line after it would end an event, and the original clients would read one without data.
pub const COMMENT: Bytes = Bytes::from_static(b":\n");

/// Whether the client wants a stream.
pub fn wanted(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("text/event-stream"))
}

/// Answers with every item as one `data:` line of JSON. The response ends when the stream does.
pub fn response<T: Serialize>(items: impl Stream<Item = T> + Send + 'static) -> Response {
    response_of_bytes(items.map(|item| encode(&item)))
}

/// The same for items that are encoded already, so that many streams can share one encoding.
pub fn response_of_bytes(items: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(kept_alive(items)));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// An item as the stream carries it.
pub fn encode<T: Serialize>(item: &T) -> Bytes {
    let mut bytes = b"data: ".to_vec();
    serde_json::to_writer(&mut bytes, item).expect("wire types serialise");
    bytes.extend_from_slice(b"\n\n");
    bytes.into()
}

fn kept_alive(
    items: impl Stream<Item = Bytes> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let mut quiet = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    quiet.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((Box::pin(items), quiet), async |(mut items, mut quiet)| {
        tokio::select! {
            biased;
            item = items.next() => {
                quiet.reset();
                Some((Ok(item?), (items, quiet)))
            }
            _ = quiet.tick() => Some((Ok(COMMENT), (items, quiet))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_quiet_stream_has_comments_of_one_line_and_an_item_is_one_event() {
        let items = stream::iter([7]).chain(stream::pending()).map(|number| encode(&number));
        let mut sent = Box::pin(kept_alive(items));
        let mut next = async || sent.next().await.unwrap().unwrap();
        assert_eq!(next().await, "data: 7\n\n");
        assert_eq!(next().await, ":\n");
        assert_eq!(next().await, ":\n");
    }
}
