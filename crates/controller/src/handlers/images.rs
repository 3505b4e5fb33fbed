//! `/images/:id`: packed images, on their way into shelf.

use api::image::{IMAGE_MAX, ImageId};
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::Answer;
use crate::{
    error::{Error, Result},
    server::Controller,
};

/// Length of a tar's first header.
const TAR_HEADER: usize = 512;
/// How gzip, zstd, xz and bzip2 begin: the engine unpacks them.
const COMPRESSED: [&[u8]; 4] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh"];

/// Whether shelf has the image, and how large it is.
pub(crate) async fn show(
    State(controller): State<Controller>,
    Path(id): Path<String>,
) -> Answer<Value> {
    let id = parsed(&id)?;
    let shelf = controller.neighbours.shelf()?;
    match shelf.head(&id.shelf_path()).await.map_err(Error::Shelf)? {
        Some((size, sha256)) => {
            Ok(Json(json!({ "id": id.to_string(), "size": size, "sha256": sha256 })))
        }
        None => Err(Error::missing("image", id)),
    }
}

/// Takes what `docker save` wrote.
pub(crate) async fn put(
    State(controller): State<Controller>,
    Path(id): Path<String>,
    body: Body,
) -> Answer<Value> {
    let id = parsed(&id)?;
    let shelf = controller.neighbours.shelf()?;
    let mut size: u64 = 0;
    let pieces = packed(body.into_data_stream()).await?;
    let pieces = pieces.map_err(std::io::Error::other).and_then(move |piece| {
        size += piece.len() as u64;
        let fits = size <= IMAGE_MAX;
        std::future::ready(if fits { Ok(piece) } else { Err(too_large()) })
    });
    let sha256 = shelf.put_stream(&id.shelf_path(), pieces).await.map_err(Error::Shelf)?;
    Ok(Json(json!({ "id": id.to_string(), "sha256": sha256 })))
}

/// The same stream, if it begins as what `docker save` writes: anything else would be found out only by the hosts.
async fn packed<E>(
    mut pieces: impl Stream<Item = std::result::Result<Bytes, E>> + Unpin,
) -> Result<impl Stream<Item = std::result::Result<Bytes, E>>> {
    let mut head = Vec::new();
    while head.len() < TAR_HEADER
        && let Some(Ok(piece)) = pieces.next().await
    {
        head.extend_from_slice(&piece);
    }
    let is_tar = head.len() >= TAR_HEADER && head[257..262] == *b"ustar";
    if !is_tar && !COMPRESSED.iter().any(|magic| head.starts_with(magic)) {
        return Err(Error::invalid("body", "is no packed image: send what docker save writes"));
    }
    Ok(stream::iter([Ok(head.into())]).chain(pieces))
}

fn too_large() -> std::io::Error {
    std::io::Error::other(format!("an image has at most {} GiB", IMAGE_MAX >> 30))
}

fn parsed(id: &str) -> Result<ImageId> {
    id.parse().map_err(|err: api::image::InvalidImageId| Error::invalid("id", err.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_begins_as_a_tar_is_taken_and_taken_whole() {
        let mut tar = vec![7; 600];
        tar[257..262].copy_from_slice(b"ustar");
        let sent = |body: &[u8]| {
            let pieces: Vec<_> = body.chunks(100).map(Bytes::copy_from_slice).collect();
            stream::iter(pieces.into_iter().map(Ok::<_, ()>))
        };
        let gzipped = b"\x1f\x8b\x08 and so on".to_vec();
        for good in [tar.clone(), gzipped] {
            let taken: Vec<_> = packed(sent(&good)).await.unwrap().try_collect().await.unwrap();
            assert_eq!(taken.concat(), good);
        }
        for bad in [&b""[..], b"{}", &tar[..300], &[7; 600]] {
            assert!(packed(sent(bad)).await.is_err(), "{} bytes are taken", bad.len());
        }
    }
}
