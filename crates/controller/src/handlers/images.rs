//! `/images/:id`: packed images, on their way into shelf.

use api::image::{IMAGE_MAX, ImageId};
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
};
use futures_util::TryStreamExt;
use serde_json::{Value, json};

use super::Answer;
use crate::{
    error::{Error, Result},
    server::Controller,
};

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
    let pieces = body.into_data_stream().map_err(std::io::Error::other).and_then(move |piece| {
        size += piece.len() as u64;
        let fits = size <= IMAGE_MAX;
        std::future::ready(if fits { Ok(piece) } else { Err(too_large()) })
    });
    let sha256 = shelf.put_stream(&id.shelf_path(), pieces).await.map_err(Error::Shelf)?;
    Ok(Json(json!({ "id": id.to_string(), "sha256": sha256 })))
}

fn too_large() -> std::io::Error {
    std::io::Error::other(format!("an image has at most {} GiB", IMAGE_MAX >> 30))
}

fn parsed(id: &str) -> Result<ImageId> {
    id.parse().map_err(|err: api::image::InvalidImageId| Error::invalid("id", err.to_string()))
}
