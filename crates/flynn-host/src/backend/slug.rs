//! Slugs as images: the runner's image plus the slug as one layer, made once for a user, and named by the slug's digest
//! and that user.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use api::host::Slug;
use async_compression::tokio::bufread::GzipDecoder;
use bollard::{
    body_full, body_try_stream,
    models::{ContainerConfig, ContainerCreateBody},
    query_parameters::{
        CommitContainerOptionsBuilder, DownloadFromContainerOptionsBuilder,
        UploadToContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use shelf_client::Shelf;
use tokio::io::{AsyncBufRead, AsyncReadExt};
use tokio_util::io::StreamReader;
use tracing::{info, warn};

use super::{
    engine::{Engine, EngineError, Image, of},
    turns::Turns,
};
use crate::domain::{single_tar, slug_tar::Chown, users};

/// Label: the id of the runner's image. A newer runner makes a new image.
const LABEL_BASE: &str = "flynn.slug.base";
/// Label: whose image it is, also when a newer one has taken its name.
const LABEL_REPOSITORY: &str = "flynn.slug.repository";
/// Where an image has the names of users and groups.
const NAMES: [&str; 2] = ["etc/passwd", "etc/group"];
/// Largest such file.
const NAMES_SIZE: usize = 1 << 20;
/// Bytes handed on at once.
const PIECE: usize = 64 << 10;

/// The slug could not be made into an image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SlugError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// shelf.
    #[error("the slug {path} could not be fetched: {source}")]
    Fetch {
        /// In shelf.
        path: String,
        /// Why.
        #[source]
        source: shelf_client::Error,
    },
    /// It is another.
    #[error(
        "the slug {path} is not the one that was built: its SHA-256 is {is}, not {wanted}; push again"
    )]
    Digest {
        /// In shelf.
        path: String,
        /// What it has.
        is: String,
        /// What it should have.
        wanted: String,
    },
    /// It cannot be unpacked.
    #[error("the slug could not be unpacked: {0}")]
    Unpack(String),
}

/// Images of slugs.
#[derive(Debug)]
pub(crate) struct Slugs {
    engine: Engine,
    shelf: Shelf,
    repository: String,
    turns: Turns,
}

impl Slugs {
    /// Images called `<prefix>-slug:<digest>-<user>`.
    pub(crate) fn new(engine: Engine, shelf: Shelf, prefix: &str) -> Self {
        let repository = format!("{prefix}-slug");
        Self { engine, shelf, repository, turns: Turns::default() }
    }

    /// The image of a slug on a runner; made if it is not there. Jobs that want the same one wait for one making.
    pub(crate) async fn image(
        &self,
        runner: &str,
        slug: &Slug,
        user: u32,
    ) -> Result<Image, SlugError> {
        let _turn = self.turns.of(&tag(slug, user)).await;
        self.image_in_turn(runner, slug, user).await
    }

    /// Name of a slug's image, by its tag.
    pub(crate) fn name(&self, tag: &str) -> String {
        format!("{}:{tag}", self.repository)
    }

    /// The images there are: their names, or ids where a newer one has taken the name.
    pub(crate) async fn images(&self) -> Result<BTreeSet<String>, EngineError> {
        let listed = self.engine.images(&format!("{LABEL_REPOSITORY}={}", self.repository)).await?;
        let own = format!("{}:", self.repository);
        let names = listed.into_iter().map(|(id, tags)| {
            let named = tags.into_iter().find(|tag| tag.starts_with(&own));
            named.unwrap_or(id)
        });
        Ok(names.collect())
    }

    /// Containers in which images are made, with the tags of those.
    pub(crate) async fn makings(&self) -> Result<Vec<(String, String)>, EngineError> {
        let label = format!("{LABEL_REPOSITORY}={}", self.repository);
        // A job's container has the label of its image.
        let tag =
            |name: &str| name.strip_prefix(&format!("{}-", self.repository)).map(str::to_owned);
        let all = self.engine.listed(&label).await?.into_iter();
        Ok(all.filter_map(|one| Some((one.id, tag(&one.name)?))).collect())
    }

    /// Whether the image of a tag is being made.
    pub(crate) fn is_under_way(&self, tag: &str) -> bool {
        self.turns.is_taken(tag)
    }

    /// Removes an image of [`Slugs::images`], unless its tag is used. No job comes to have it meanwhile.
    pub(crate) async fn remove(
        &self,
        image: &str,
        used: impl FnOnce() -> BTreeSet<String>,
    ) -> Result<(), EngineError> {
        let tag = image.strip_prefix(&format!("{}:", self.repository)).unwrap_or(image);
        let _turn = self.turns.of(tag).await;
        if used().contains(tag) {
            return Ok(());
        }
        self.engine.remove_image(image).await
    }

    async fn image_in_turn(
        &self,
        runner: &str,
        slug: &Slug,
        user: u32,
    ) -> Result<Image, SlugError> {
        let base = self.engine.image(runner).await?;
        let tag = tag(slug, user);
        let name = self.name(&tag);
        match self.engine.image(&name).await {
            Ok(image) if image.labels.get(LABEL_BASE) == Some(&base.id) => return Ok(image),
            Ok(_) | Err(EngineError::NoImage(_)) => {}
            Err(err) => return Err(err.into()),
        }
        // Clean: what a container has of its own (environment, labels) would be in the image for ever.
        let container = ContainerCreateBody {
            image: Some(base.id.clone()),
            labels: Some(HashMap::from([
                (LABEL_BASE.to_owned(), base.id.clone()),
                (LABEL_REPOSITORY.to_owned(), self.repository.clone()),
            ])),
            ..ContainerCreateBody::default()
        };
        let container_name = format!("{}-{tag}", self.repository);
        self.engine.remove(&container_name).await?;
        let container = self.engine.create(&container_name, container).await?;
        let made = self.fill(&container, slug, user).await;
        if let Err(err) = self.engine.remove(&container).await {
            warn!(error = &err as &dyn std::error::Error, "a container of a slug stays behind");
        }
        made?;
        info!(slug.sha256 = %slug.sha256, "made the image of slug {}", slug.sha256);
        Ok(self.engine.image(&name).await?)
    }

    async fn fill(&self, container: &str, slug: &Slug, user: u32) -> Result<(), SlugError> {
        let path = slug.path.clone();
        let reading = self.shelf.get(&slug.path).await;
        let reading = reading.map_err(|source| SlugError::Fetch { path: path.clone(), source })?;
        let outcome = Arc::new(Mutex::new(Outcome::default()));
        let layer = layer(reading.into_stream(), user, outcome.clone());
        self.put(container, single_tar::app_folder("app/", user), "make the app's folder").await?;
        self.name_user(container, user).await?;
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        let body = body_try_stream(layer);
        let uploaded = self.engine.slow().upload_to_container(container, Some(options), body).await;
        {
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(problem) = outcome.problem.take() {
                return Err(SlugError::Unpack(problem));
            }
            uploaded.map_err(of(|| "unpack the slug".into()))?;
            let is = hex::encode(outcome.digest.finalize_reset());
            if is != slug.sha256 {
                return Err(SlugError::Digest { path, is, wanted: slug.sha256.clone() });
            }
        }
        let options = CommitContainerOptionsBuilder::new()
            .container(container)
            .repo(&self.repository)
            .tag(&tag(slug, user))
            .pause(false)
            .build();
        let made = self.engine.slow().commit_container(options, ContainerConfig::default()).await;
        made.map_err(of(|| "make the slug's image".into()))?;
        Ok(())
    }

    /// Has the runner's user be that number, so that a process finds its own name and folder.
    async fn name_user(&self, container: &str, user: u32) -> Result<(), EngineError> {
        for path in NAMES {
            let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
            let packed = self.engine.docker().download_from_container(container, Some(options));
            let packed = packed.try_fold(Vec::new(), async |mut all, piece| {
                all.extend_from_slice(&piece[..piece.len().min(NAMES_SIZE - all.len())]);
                Ok(all)
            });
            let packed = match packed.await.map_err(of(|| format!("read /{path}"))) {
                Ok(packed) => packed,
                Err(err) if err.is_missing() => continue,
                Err(err) => return Err(err),
            };
            let Some(text) = single_tar::content(&packed) else { continue };
            let text = users::renumbered(&String::from_utf8_lossy(text), user);
            let file = single_tar::file(path, text.as_bytes());
            self.put(container, file, "write the names of users").await?;
        }
        Ok(())
    }

    async fn put(&self, container: &str, tar: Vec<u8>, doing: &str) -> Result<(), EngineError> {
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        let body = body_full(tar.into());
        let put = self.engine.docker().upload_to_container(container, Some(options), body).await;
        put.map_err(of(|| doing.into()))
    }
}

/// The tag of the image that a slug becomes for a user.
pub(crate) fn tag(slug: &Slug, user: u32) -> String {
    format!("{}-{user}", slug.sha256)
}

/// What is known of a slug once it has passed.
#[derive(Debug, Default)]
struct Outcome {
    digest: Sha256,
    problem: Option<String>,
}

/// The tar for the engine, out of the compressed slug: digested, unpacked and checked as it passes.
fn layer<E: std::error::Error + Send + Sync + 'static>(
    slug: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    user: u32,
    outcome: Arc<Mutex<Outcome>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let digested = outcome.clone();
    let slug = slug.map_err(io::Error::other).inspect_ok(move |chunk| {
        digested.lock().unwrap_or_else(PoisonError::into_inner).digest.update(chunk);
    });
    let mut unpacked = GzipDecoder::new(StreamReader::new(slug.boxed()));
    unpacked.multiple_members(true);
    let pieces =
        stream::try_unfold((unpacked, Chown::to(user)), |(mut unpacked, mut chown)| async move {
            let mut piece = Vec::with_capacity(PIECE);
            if (&mut unpacked).take(PIECE as u64).read_to_end(&mut piece).await? == 0 {
                chown.finish().map_err(io::Error::other)?;
                read_out(unpacked.into_inner()).await?;
                return Ok(None);
            }
            let rewritten = chown.push(&piece).map_err(io::Error::other)?;
            Ok(Some((Bytes::from(rewritten), (unpacked, chown))))
        });
    pieces.inspect_err(move |err: &io::Error| {
        let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.problem.get_or_insert_with(|| err.to_string());
    })
}

/// Bytes after the archive's end belong to the digest too.
async fn read_out(mut rest: impl AsyncBufRead + Unpin) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    while rest.read(&mut piece).await? > 0 {}
    Ok(())
}
