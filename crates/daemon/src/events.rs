//! Server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;

/// A comment this often keeps a quiet stream open, and tells the client that the server is alive.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

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
    let events = items.map(|item| {
        let data = serde_json::to_string(&item).expect("wire types serialise");
        Ok::<_, Infallible>(Event::default().data(data))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
