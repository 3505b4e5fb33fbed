//! Images that a host fetches for its jobs: from another host, from shelf, from a registry. Those of apps get a name of
//! ours instead of their own, by which garbage collection finds them; images that were here before keep their names.

use std::collections::BTreeSet;

use api::image::ImageId;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use shelf_client::Shelf;
use tracing::info;

use super::{
    engine::{Engine, EngineError, Image, of},
    peers::Peers,
    turns::Turns,
};

/// Label of the images of Flynn's own parts, which a host keeps under their own names.
const LABEL_PART: &str = "flynn.hash";

/// An image could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// shelf.
    #[error("the image {id} could not be fetched from shelf: {source}")]
    Shelf {
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

/// Fetched images.
#[derive(Debug)]
pub(crate) struct FetchedImages {
    engine: Engine,
    shelf: Shelf,
    repository: String,
    turns: Turns,
}

impl FetchedImages {
    /// Images called `<prefix>-image:<id>`, or the digest of their name where jobs want them by name.
    pub(crate) fn new(engine: Engine, shelf: Shelf, prefix: &str) -> Self {
        Self { engine, shelf, repository: format!("{prefix}-image"), turns: Turns::default() }
    }

    /// The image that jobs call so; fetched if it is not here. Jobs that want the same one wait for one fetching.
    pub(crate) async fn image(&self, wanted: &str, peers: &Peers) -> Result<Image, FetchError> {
        let own = self.name(wanted);
        let _turn = self.turns.of(&own).await;
        for name in [wanted, &own] {
            match self.engine.image(name).await {
                Err(EngineError::NoImage(_)) => {}
                Err(err) => return Err(err.into()),
                Ok(image) if image.is_nameless => return Ok(self.keep(image, wanted).await?),
                Ok(image) => return Ok(image),
            }
        }
        for name in [wanted, &own] {
            match peers.fetch(name).await {
                Err(EngineError::NoImage(_)) => {}
                Err(err) => return Err(err.into()),
                Ok(image) => return Ok(self.keep(image, wanted).await?),
            }
        }
        let image = self.fetch(wanted).await?;
        Ok(self.keep(image, wanted).await?)
    }

    /// Name of an image that jobs call so.
    pub(crate) fn name(&self, wanted: &str) -> String {
        let tag = match wanted.parse::<ImageId>() {
            Ok(id) => id.hex().to_owned(),
            Err(_) => hex::encode(Sha256::digest(wanted)),
        };
        format!("{}:{tag}", self.repository)
    }

    /// The names of those there are.
    pub(crate) async fn images(&self) -> Result<BTreeSet<String>, EngineError> {
        self.engine.image_names(&self.repository).await
    }

    /// Removes one of [`FetchedImages::images`], unless it is used. No job comes to have it meanwhile.
    pub(crate) async fn remove(
        &self,
        own: &str,
        used: impl FnOnce() -> BTreeSet<String>,
    ) -> Result<(), EngineError> {
        let _turn = self.turns.of(own).await;
        if used().contains(own) {
            return Ok(());
        }
        self.engine.remove_image(own).await
    }

    async fn fetch(&self, wanted: &str) -> Result<Image, FetchError> {
        match wanted.parse::<ImageId>() {
            Ok(id) => self.load(&id).await,
            Err(_) if names_registry(wanted) => Ok(self.pull(wanted).await?),
            Err(_) => Err(EngineError::NoImage(wanted.into()).into()),
        }
    }

    async fn load(&self, id: &ImageId) -> Result<Image, FetchError> {
        let name = id.to_string();
        let failed = |source| FetchError::Shelf { id: id.clone(), source };
        let packed = self.shelf.get(&id.shelf_path()).await.map_err(failed)?;
        let pieces = packed.into_stream().map_err(std::io::Error::other);
        self.engine.load(&name, pieces).await?;
        info!("loaded the image {id} from shelf");
        match self.engine.image(&name).await {
            Err(EngineError::NoImage(_)) => Err(FetchError::Other(id.clone())),
            found => Ok(found?),
        }
    }

    async fn pull(&self, name: &str) -> Result<Image, EngineError> {
        let (repository, tag) = parts(name);
        let options = CreateImageOptionsBuilder::new().from_image(repository).tag(tag).build();
        let pulled = self.engine.slow().create_image(Some(options), None, None);
        let pulled = pulled.try_for_each(|_| async { Ok(()) }).await;
        pulled.map_err(of(|| format!("fetch {name}")))?;
        self.engine.image(name).await
    }

    /// Has it bear our name alone.
    async fn keep(&self, image: Image, wanted: &str) -> Result<Image, EngineError> {
        let is_id = wanted.parse::<ImageId>().is_ok();
        if !is_id && image.labels.contains_key(LABEL_PART) {
            return Ok(image);
        }
        let own = self.name(wanted);
        self.engine.tag_image(&image.id, &own).await?;
        if !is_id {
            self.engine.remove_image(wanted).await?;
        }
        Ok(image)
    }
}

/// `registry.example.com/name`, `localhost:5000/name`; not `flynn/name`.
fn names_registry(image: &str) -> bool {
    image
        .split_once('/')
        .is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost")
}

/// The repository of an image and which of its images it is: a digest, else a tag. Without one the engine would fetch all
/// there are.
fn parts(name: &str) -> (&str, &str) {
    let (tagged, digest) = name.split_once('@').map_or((name, None), |(a, b)| (a, Some(b)));
    let (repository, tag) = match tagged.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (tagged, "latest"),
    };
    (repository, digest.unwrap_or(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_with_a_registry_is_fetched() {
        for name in ["flynn/slugrunner", "busybox", "flynn-slug:abc"] {
            assert!(!names_registry(name), "{name}");
        }
        for name in ["registry.example.com/a", "localhost/a", "localhost:5000/a:1"] {
            assert!(names_registry(name), "{name}");
        }
    }
    #[test]
    fn an_image_is_one_by_its_digest_its_tag_or_the_latest() {
        assert_eq!(parts("localhost:5000/a"), ("localhost:5000/a", "latest"));
        assert_eq!(parts("localhost:5000/a:1"), ("localhost:5000/a", "1"));
        assert_eq!(parts("localhost:5000/a@sha256:ab"), ("localhost:5000/a", "sha256:ab"));
        assert_eq!(parts("r.io/a:1@sha256:ab"), ("r.io/a", "sha256:ab"));
    }
}
