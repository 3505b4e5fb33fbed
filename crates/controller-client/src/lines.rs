//! Newline-delimited JSON.

use api_client::Error;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use reqwest::Response;
use serde::de::{DeserializeOwned, Error as _};

/// Longest line taken; hosts keep shorter ones.
const LINE_LIMIT: usize = 2 << 20;

/// Cuts bytes into lines. Any chunking gives the same lines; empty ones are left out.
#[derive(Debug, Default)]
struct Lines(BytesMut);

impl Lines {
    /// Takes a chunk and gives the lines it completes, or `None` if one is too long.
    fn push(&mut self, chunk: &[u8]) -> Option<Vec<Bytes>> {
        let mut lines = Vec::new();
        for part in chunk.split_inclusive(|&b| b == b'\n') {
            self.0.extend_from_slice(part);
            if self.0.len() > LINE_LIMIT {
                return None;
            }
            if self.0.ends_with(b"\n") {
                let mut line = self.0.split();
                line.truncate(line.len() - 1);
                if !line.is_empty() {
                    lines.push(line.freeze());
                }
            }
        }
        Some(lines)
    }
}

/// Every line of an answer as an object. Ends with the connection, or after the first error.
pub(crate) fn objects<T: DeserializeOwned + Send + 'static>(
    response: Response,
) -> impl Stream<Item = Result<T, Error>> + Send {
    let url = response.url().to_string();
    let state = Some((url, response.bytes_stream().boxed(), Lines::default()));
    let batches = futures_util::stream::unfold(state, |state| async move {
        let (url, mut bytes, mut lines) = state?;
        match bytes.next().await? {
            Err(source) => Some((vec![Err(Error::Lost { url, source })], None)),
            Ok(chunk) => match lines.push(&chunk) {
                None => {
                    let source = serde_json::Error::custom("a line is too long");
                    Some((vec![Err(Error::Decode { url, source })], None))
                }
                Some(complete) => {
                    let decode = |line: &Bytes| {
                        serde_json::from_slice(line)
                            .map_err(|source| Error::Decode { url: url.clone(), source })
                    };
                    let items = complete.iter().map(decode).collect();
                    Some((items, Some((url, bytes, lines))))
                }
            },
        }
    });
    batches.flat_map(futures_util::stream::iter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(texts: Vec<u32>, cuts in prop::collection::vec(1usize..9, 1..40)) {
            let wire: String = texts.iter().map(|text| format!("{text}\n\n")).collect();
            let (mut rest, mut lines, mut got) = (wire.as_bytes(), Lines::default(), Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                got.extend(lines.push(chunk).unwrap());
                rest = after;
            }
            let want: Vec<Bytes> = texts.iter().map(|text| text.to_string().into()).collect();
            prop_assert_eq!(got, want);
        }
    }
}
