//! `docker-push` and `release-add-docker`: apps that are images.

use std::process::Stdio;

use anyhow::{Context, bail};
use api::{
    controller::{App, ArtifactType, NewArtifact, Release},
    id::ArtifactId,
};
use clap::Args;
use tokio::process::Command;
use tokio_util::io::ReaderStream;

use super::deploy;
use crate::{
    args::Listing,
    domain::docker::{Inspected, pushed_artifact, registry_artifact, release_of},
    output,
    session::{AppSession, Session},
};

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Port its web process listens on; the one the image exposes, else 8080, if left out
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The image, as `docker images` lists it
    image: String,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Port its web process listens on; 8080, or as before, if left out
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The image, as registry.example.com/name
    image: String,
    /// Its tag
    tag: Option<String>,
    #[command(flatten)]
    listing: Listing,
}

pub(crate) async fn push(session: &Session, args: &PushArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    // Before anything is sent: whether the app is there, and the image.
    target.app().await?;
    let inspected = inspect(&args.image).await?;
    let id = inspected.id()?;
    if target.controller.has_image(&id).await? {
        output::say(&format!("The cluster has image {id} already."));
    } else {
        output::say(&format!("Sending image {id}."));
        send(&target, &id).await?;
    }
    let artifact = pushed_artifact(&id, &args.image);
    let port = args.port.or(inspected.port());
    deploy::change(&target, args.listing, async |app, current| {
        Ok(Some(add(&target, app, current.as_ref(), &artifact, port).await?.id))
    })
    .await
}

pub(crate) async fn add_docker(session: &Session, args: &AddArgs) -> anyhow::Result<()> {
    let artifact = registry_artifact(&args.image, args.tag.as_deref())?;
    let target = session.app()?;
    deploy::change(&target, args.listing, async |app, current| {
        Ok(Some(add(&target, app, current.as_ref(), &artifact, args.port).await?.id))
    })
    .await
}

/// Makes the release that runs the image.
async fn add(
    target: &AppSession,
    app: &App,
    current: Option<&Release>,
    artifact: &NewArtifact,
    port: Option<u16>,
) -> anyhow::Result<Release> {
    let slugs = current.iter().flat_map(|release| release.artifacts.iter().copied());
    let was_image = current.is_some() && !any_is_slug(target, slugs).await?;
    let stored = target.controller.create_artifact(artifact).await?;
    let mut new = release_of(&app.name, current, was_image, port);
    (new.app_id, new.artifacts) = (Some(app.id), vec![stored.id]);
    let made = target.controller.create_release(&new).await?;
    output::say(&format!("Created release {}.", made.id));
    Ok(made)
}

async fn any_is_slug(
    target: &AppSession,
    artifacts: impl Iterator<Item = ArtifactId>,
) -> anyhow::Result<bool> {
    for id in artifacts {
        if target.controller.artifact(id).await?.kind == ArtifactType::File {
            return Ok(true);
        }
    }
    Ok(false)
}

const NO_DOCKER: &str =
    "docker could not be started; it has to be installed here, for the image is this machine's";

async fn inspect(image: &str) -> anyhow::Result<Inspected> {
    let mut docker = Command::new("docker");
    docker.args(["image", "inspect", "--", image]).stdin(Stdio::null());
    let said = docker.output().await.context(NO_DOCKER)?;
    if !said.status.success() {
        let err = String::from_utf8_lossy(&said.stderr);
        bail!("docker does not know the image {image:?}: {}", err.trim());
    }
    let all: Vec<Inspected> =
        serde_json::from_slice(&said.stdout).context("docker said something unexpected")?;
    all.into_iter().next().with_context(|| format!("docker does not know the image {image:?}"))
}

/// Sends what `docker save` writes. Named by its id it carries no tag that could take another image's name on a host.
async fn send(target: &AppSession, id: &api::image::ImageId) -> anyhow::Result<()> {
    let mut docker = Command::new("docker");
    docker.args(["save", "--", &id.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut saving = docker.kill_on_drop(true).spawn().context(NO_DOCKER)?;
    let packed = saving.stdout.take().context("docker writes nowhere")?;
    let sent = target.controller.put_image(id, ReaderStream::new(packed)).await;
    let status = saving.wait().await?;
    sent.context("sending the image")?;
    anyhow::ensure!(
        status.success(),
        "docker could not pack the image; the cluster may have a part of it: try again"
    );
    Ok(())
}
