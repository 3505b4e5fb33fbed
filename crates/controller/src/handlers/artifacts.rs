//! `/artifacts`.

use api::{
    controller::{Artifact, ArtifactType, NewArtifact},
    expand::image_of,
};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::Query;

use super::{
    Answer,
    form::Formed,
    id,
    page::{self, Paging},
};
use crate::{
    error::{Error, Result},
    server::Controller,
    store::{self, Tx},
};

pub(crate) async fn list(
    State(controller): State<Controller>,
    Query(paging): Query<Paging>,
) -> Answer<Vec<Artifact>> {
    let page = paging.page(page::HISTORY)?;
    Ok(Json(store::artifacts::list(&controller.db.client().await?, page).await?))
}

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path(artifact): Path<String>,
) -> Answer<Artifact> {
    let artifact = id("artifact", &artifact)?;
    Ok(Json(store::artifacts::find(&controller.db.client().await?, artifact).await?))
}

pub(crate) async fn create(
    State(controller): State<Controller>,
    Formed(new): Formed<NewArtifact>,
) -> Answer<Artifact> {
    check(&new)?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let artifact = store::artifacts::put(&mut tx, &new).await?;
    tx.commit().await?;
    Ok(Json(artifact))
}

/// An artifact that no host could use is refused.
pub(super) fn check(new: &NewArtifact) -> Result<()> {
    match new.kind {
        ArtifactType::Docker => {
            image_of(&new.uri).map_err(|err| Error::invalid("uri", err.to_string()))?;
        }
        ArtifactType::File if !new.meta.contains_key("sha256") => {
            return Err(Error::invalid("meta", "of a slug must hold its sha256"));
        }
        ArtifactType::File => {}
    }
    Ok(())
}
