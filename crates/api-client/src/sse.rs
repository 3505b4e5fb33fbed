//! Server-sent events, as far as our servers use them.
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream::BoxStream};
use serde::de::DeserializeOwned;

use crate::Error;

/// Longest event taken; a server that sends more is broken.
const EVENT_LIMIT: usize = 16 << 20;

/// Cuts a byte stream into the `data` of its events. Any chunking gives the same events.
#[derive(Debug, Default)]
pub struct Decoder {
    line: BytesMut,
    data: Vec<u8>,
    some: bool,
}

impl Decoder {
    /// Takes a chunk and gives the events it completes, or `None` if an event is too large.
    pub fn push(&mut self, chunk: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut events = Vec::new();
        for part in chunk.split_inclusive(|&b| b == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.data.len() > EVENT_LIMIT {
                return None;
            }
            if self.line.ends_with(b"\n") {
                let line = self.line.split();
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                self.end_of_line(line.strip_suffix(b"\r").unwrap_or(line), &mut events);
            }
        }
        Some(events)
    }

    fn end_of_line(&mut self, line: &[u8], events: &mut Vec<Vec<u8>>) {
        if line.is_empty() {
            if std::mem::take(&mut self.some) {
                events.push(std::mem::take(&mut self.data));
            }
        } else if let Some(data) = line.strip_prefix(b"data:") {
            if self.some {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            self.some = true;
        }
    }
}

pub(crate) fn events<T: DeserializeOwned + Send + 'static>(
    url: String,
    bytes: BoxStream<'static, reqwest::Result<Bytes>>,
    silence: Duration,
) -> impl Stream<Item = Result<T, Error>> + Send {
    let chunks = futures_util::stream::unfold(
        Some((url, bytes, Decoder::default())),
        move |state| async move {
            let (url, mut bytes, mut decoder) = state?;
            let items: Vec<Result<T, Error>> = match tokio::time::timeout(silence, bytes.next())
                .await
            {
                Err(_) => return Some((vec![Err(Error::Silent { url })], None)),
                Ok(None) => return None,
                Ok(Some(Err(err))) => return Some((vec![Err(Error::transport(&url, err))], None)),
                Ok(Some(Ok(chunk))) => match decoder.push(&chunk) {
                    None => return Some((vec![Err(Error::Silent { url })], None)),
                    Some(events) => events
                        .into_iter()
                        .map(|event| {
                            serde_json::from_slice(&event)
                                .map_err(|source| Error::Decode { url: url.clone(), source })
                        })
                        .collect(),
                },
            };
            Some((items, Some((url, bytes, decoder))))
        },
    );
    chunks.flat_map(futures_util::stream::iter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(texts: Vec<u32>, cuts in prop::collection::vec(1usize..9, 1..40)) {
            // A comment is one line; servers of the version before ended it with an empty one.
            let wire: String =
                texts.iter().map(|text| format!(":\ndata: {text}\n\n:\n\n")).collect();
            let mut rest = wire.as_bytes();
            let (mut decoder, mut got) = (Decoder::default(), Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                got.extend(decoder.push(chunk).unwrap());
                rest = after;
            }
            let want: Vec<Vec<u8>> = texts.iter().map(|text| text.to_string().into()).collect();
            prop_assert_eq!(got, want);
        }

        #[test]
        fn decoding_never_panics(bytes: Vec<u8>) {
            let _ = Decoder::default().push(&bytes);
        }
    }
}
