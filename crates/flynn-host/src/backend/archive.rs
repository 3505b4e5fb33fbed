//! Images that were pushed to the cluster: what neither this host nor another has is loaded from shelf.

use api::image::ImageId;
use futures_util::TryStreamExt;
use shelf_client::Shelf;
use tracing::info;

use super::{
    engine::{Engine, EngineError, Image},
    turns::Turns,
};

/// A pushed image could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// shelf.
    #[error("the image {id} could not be fetched from shelf: {source}")]
    Fetch {
        /// The image.
        id: ImageId,
        /// Why.
        #[source]
        source: shelf_client::Error,
    },
    /// What shelf has under its name is another image.
    #[error("what was pushed as image {0} holds another one; push it again: flynn docker-push")]
    Other(ImageId),
}

/// Pushed images.
#[derive(Debug)]
pub(crate) struct Archives {
    engine: Engine,
    shelf: Shelf,
    turns: Turns,
}

impl Archives {
    /// Those of this shelf.
    pub(crate) fn new(engine: Engine, shelf: Shelf) -> Self {
        Self { engine, shelf, turns: Turns::default() }
    }

    /// Loads an image; jobs that want the same one wait for one loading.
    pub(crate) async fn load(&self, id: &ImageId) -> Result<Image, ArchiveError> {
        let _turn = self.turns.of(id.hex()).await;
        let name = id.to_string();
        match self.engine.image(&name).await {
            Err(EngineError::NoImage(_)) => {}
            found => return Ok(found?),
        }
        let fetch = |source| ArchiveError::Fetch { id: id.clone(), source };
        let packed = self.shelf.get(&id.shelf_path()).await.map_err(fetch)?;
        let pieces = packed.into_stream().map_err(std::io::Error::other);
        self.engine.load(&name, pieces).await?;
        info!("loaded the image {id} from shelf");
        match self.engine.image(&name).await {
            Err(EngineError::NoImage(_)) => Err(ArchiveError::Other(id.clone())),
            found => Ok(found?),
        }
    }
}
