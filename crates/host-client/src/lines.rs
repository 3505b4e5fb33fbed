//! A body of newline-delimited JSON, read as it comes.

use api_client::Error;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream::BoxStream};
use serde::de::DeserializeOwned;

/// Longest line taken: a host cuts a log line long before.
const LINE_LIMIT: usize = 1 << 20;

/// Cuts bytes into lines under any chunking.
#[derive(Debug, Default)]
struct Splitter {
    rest: BytesMut,
}

impl Splitter {
    /// Takes a chunk and gives the lines it completes, without their ends. What is longer than a line may be comes as
    /// a line too, and will not parse.
    fn push(&mut self, chunk: &[u8]) -> Vec<BytesMut> {
        let mut lines = Vec::new();
        for part in chunk.split_inclusive(|&byte| byte == b'\n') {
            self.rest.extend_from_slice(part);
            if self.rest.ends_with(b"\n") || self.rest.len() > LINE_LIMIT {
                let mut line = self.rest.split();
                line.truncate(line.trim_ascii_end().len());
                if !line.is_empty() {
                    lines.push(line);
                }
            }
        }
        lines
    }
}

/// Each line as a value; ends with the body or its first error.
pub(crate) fn lines<T: DeserializeOwned + Send + 'static>(
    url: String,
    bytes: BoxStream<'static, reqwest::Result<Bytes>>,
) -> impl Stream<Item = Result<T, Error>> + Send {
    let chunks =
        futures_util::stream::unfold(Some((url, bytes, Splitter::default())), |state| async move {
            let (url, mut bytes, mut splitter) = state?;
            match bytes.next().await? {
                Err(source) => {
                    let source = source.without_url();
                    Some((vec![Err(Error::Lost { url, source })], None))
                }
                Ok(chunk) => {
                    let lines = splitter.push(&chunk).into_iter();
                    let items = lines
                        .map(|line| {
                            serde_json::from_slice(&line)
                                .map_err(|source| Error::Decode { url: url.clone(), source })
                        })
                        .collect();
                    Some((items, Some((url, bytes, splitter))))
                }
            }
        });
    chunks.flat_map(futures_util::stream::iter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(texts in prop::collection::vec("[a-z]{1,9}", 0..20), size in 1usize..9) {
            let wire: String = texts.iter().map(|text| format!("{text}\n")).collect();
            let mut splitter = Splitter::default();
            let got: Vec<_> = wire.as_bytes().chunks(size).flat_map(|chunk| splitter.push(chunk)).collect();
            prop_assert_eq!(got, texts);
        }
    }
}
